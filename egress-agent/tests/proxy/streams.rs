//! HTTP/2 clients and origins of the tests.

use crate::support::{Bed, PATIENCE};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use hyper::{HeaderMap, Request, Response};
use std::future::poll_fn;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A client connection.
pub struct Client {
    pub send: SendRequest<Bytes>,
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub async fn new(bed: &Bed) -> Self {
        Self::with(bed, &h2::client::Builder::new()).await
    }

    pub async fn with(bed: &Bed, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(bed.proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        Self { send, driver }
    }

    /// Sends the head of a request whose body follows, or its end.
    pub async fn begin(
        &mut self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        poll_fn(|cx| self.send.poll_ready(cx)).await.unwrap();
        self.send.send_request(request, end).unwrap()
    }

    /// Sends a request without a body. Returns the body of its response, unread.
    pub async fn body(&mut self, request: Request<()>) -> RecvStream {
        let (response, _) = self.begin(request, true).await;
        let response = timeout(PATIENCE, response).await.unwrap();
        response.unwrap().into_body()
    }

    /// Sends a request without a body, and reads its whole response.
    pub async fn ask(&mut self, request: Request<()>) -> Result<Reply, h2::Error> {
        let (response, _) = self.begin(request, true).await;
        whole(response).await
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.ask(get(host, path)).await.unwrap()
    }
}

pub fn get(host: &str, path: &str) -> Request<()> {
    Request::get(format!("http://{host}{path}"))
        .body(())
        .unwrap()
}

/// A whole response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// All header fields but `date`, in order.
    pub fn fields(&self) -> Vec<String> {
        let fields = self.headers.iter().filter(|(name, _)| *name != "date");
        fields
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }
}

pub async fn whole(response: h2::client::ResponseFuture) -> Result<Reply, h2::Error> {
    let response = timeout(PATIENCE, response).await.expect("a response")?;
    let (head, mut body) = response.into_parts();
    let (bytes, _) = timeout(PATIENCE, read(&mut body))
        .await
        .expect("the whole body")?;
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes,
    })
}

pub async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, body.trailers().await?))
}

/// Sends bytes as the windows allow.
pub async fn write(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        while stream.capacity() == 0 {
            poll_fn(|cx| stream.poll_capacity(cx))
                .await
                .expect("an open stream")
                .unwrap();
        }
        let part = bytes.split_to(stream.capacity().min(bytes.len()));
        stream.send_data(part, end && bytes.is_empty()).unwrap();
    }
}

/// The code with which a stream was reset.
pub fn reset_of(found: Result<Reply, h2::Error>) -> Option<Reason> {
    let error = found.err()?;
    assert!(error.is_reset(), "{error}");
    error.reason()
}

/// An HTTP/2 origin: `answer` gets each stream.
pub async fn origin<F, R>(answer: F) -> std::net::SocketAddr
where
    F: Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    crate::raw::raw_origin(move |_, raw| {
        let answer = answer.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(raw.stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond));
            }
        }
    })
    .await
}

/// A response without its body.
pub fn ok() -> Response<()> {
    Response::new(())
}
