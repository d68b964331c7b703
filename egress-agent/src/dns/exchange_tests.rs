//! Questions of one socket and their answers, with a name server that a test plays.

use super::*;
use crate::dns::shared::{MOST_WRONG, SHARED};
use hickory_resolver::proto::rr::RecordType;
use std::net::UdpSocket as Plain;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_millis(300);

fn question(n: usize) -> Question {
    Question {
        name: format!("n{n}.example").into(),
        kind: RecordType::A,
    }
}

/// A socket at this server, which a thread answers with.
async fn shared(server: &Plain) -> Arc<Shared> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.local_addr().unwrap()).await.unwrap();
    let shared = Arc::new(Shared {
        most: MAX_SHARERS,
        socket,
        server: server.local_addr().unwrap(),
        made: Instant::now(),
        asked: Mutex::default(),
    });
    tokio::spawn(Arc::clone(&shared).receive());
    shared
}

fn received(server: &Plain) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 512];
    let (length, from) = server.recv_from(&mut bytes).unwrap();
    (bytes[..length].to_vec(), from)
}

fn answered(asked: &[u8]) -> Vec<u8> {
    let mut answer = asked.to_vec();
    answer[2] |= 0x80;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn each_question_of_a_socket_gets_its_own_answer() {
    let server = Plain::bind("127.0.0.1:0").unwrap();
    let shared = shared(&server).await;
    let mut answers = Vec::new();
    for n in 0..50 {
        answers.push((n, shared.ask(&question(n)).unwrap().unwrap()));
    }
    let asked: Vec<_> = (0..50).map(|_| received(&server)).collect();
    for (message, from) in asked.iter().rev() {
        server.send_to(&answered(message), from).unwrap();
        // A second one, and one with a letter of another case, change nothing.
        server.send_to(&answered(message), from).unwrap();
    }
    for (n, answer) in answers {
        let answer = timeout(LIMIT, answer).await.unwrap().unwrap().unwrap();
        assert_eq!(answer, answered(&asked[n].0));
    }
    let ids: std::collections::BTreeSet<_> = asked.iter().map(|(m, _)| m[..2].to_vec()).collect();
    assert_eq!(ids.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_end_the_questions_of_a_socket_and_a_case_that_is_lost_ends_one() {
    let server = Plain::bind("127.0.0.1:0").unwrap();
    let guessed = shared(&server).await;
    let answer = guessed.ask(&question(1)).unwrap().unwrap();
    let (message, from) = received(&server);
    let mut other = answered(&message);
    other[1] ^= 1;
    for _ in 0..MOST_WRONG {
        server.send_to(&other, from).unwrap();
    }
    server.send_to(&answered(&message), from).unwrap();
    let ended = timeout(LIMIT, answer).await.unwrap().unwrap();
    assert!(matches!(ended, Err(NoAnswer::WrongAnswers)), "{ended:?}");
    assert!(guessed.ask(&question(2)).unwrap().is_none());

    let lost = shared(&server).await;
    let answer = lost.ask(&question(1)).unwrap().unwrap();
    let (message, from) = received(&server);
    let mut other = answered(&message);
    other[13] ^= 0x20;
    server.send_to(&other, from).unwrap();
    let ended = timeout(LIMIT, answer).await.unwrap().unwrap();
    assert!(matches!(ended, Err(NoAnswer::CaseLost)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_shared_by_a_number_of_questions_for_a_short_time() {
    let server = Plain::bind("127.0.0.1:0").unwrap();
    let full = shared(&server).await;
    for n in 0..MAX_SHARERS {
        assert!(full.ask(&question(n)).unwrap().is_some());
    }
    assert!(full.ask(&question(MAX_SHARERS)).unwrap().is_none());
    let old = shared(&server).await;
    tokio::time::sleep(SHARED).await;
    assert!(old.ask(&question(1)).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_are_sent_together_arrive_each_once_and_their_errors_end_them() {
    let server = Plain::bind("127.0.0.1:0").unwrap();
    let socket = shared(&server).await;
    let ask = |n| socket.ask_with_others(&question(n)).unwrap().unwrap();
    let answers: Vec<_> = (0..100).map(ask).collect();
    let mut ids = std::collections::BTreeSet::new();
    for _ in &answers {
        let (message, from) = received(&server);
        ids.insert(message[..2].to_vec());
        server.send_to(&answered(&message), from).unwrap();
    }
    assert_eq!(ids.len(), answers.len());
    for answer in answers {
        let answer = timeout(LIMIT, answer).await.unwrap().unwrap();
        assert!(answer.is_ok(), "{answer:?}");
    }
    drop(server);
    let ended = timeout(LIMIT, ask(100)).await.unwrap().unwrap();
    assert!(matches!(ended, Err(NoAnswer::Socket(_))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_ends_the_question_at_once() {
    let server = Plain::bind("127.0.0.1:0").unwrap();
    let gone = shared(&server).await;
    drop(server);
    let answer = gone.ask(&question(1)).unwrap().unwrap();
    let ended = timeout(LIMIT, answer).await.unwrap().unwrap();
    assert!(matches!(ended, Err(NoAnswer::Socket(_))), "{ended:?}");
}

#[tokio::test]
async fn a_server_on_this_node_is_not_asked_over_udp() {
    let sockets = Arc::new(SocketFactory::new().unwrap());
    let at = "127.0.0.1:53".parse().unwrap();
    let exchange = Exchange::new(&sockets, sockets.own_netns(), at);
    let ended = exchange.ask(&question(1)).await;
    assert!(matches!(ended, Err(NoAnswer::OnThisNode)), "{ended:?}");
}
