//! One request to the API server and its answer, with limits of time and size.

use super::client::ApiClient;
use super::problem::Problem;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::core::Status;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// The most bytes of an error's body.
const ERROR_MOST: usize = 64 << 10;

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    /// Bytes that have arrived, from the line that was returned last.
    line: Vec<u8>,
    /// The length of that line with its end.
    ends: usize,
    /// The bytes from there on that contain no end of line.
    searched: usize,
}

/// What came of waiting for a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// It came, without its end.
    Text(&'a [u8]),
    /// The answer ended. A last line without its end is dropped: the rest of it was lost.
    End,
    /// The time is over.
    Late,
}

impl ApiClient {
    /// Sends a request, and waits `within` for the head of the answer.
    pub(super) async fn ask(
        &self,
        request: Request<Vec<u8>>,
        within: Duration,
    ) -> Result<Answer, Problem> {
        let mut request = request.map(Body::from);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().entry(header::ACCEPT).or_insert(json);
        let asked = timeout(within, self.client.send(request)).await;
        let response = asked
            .map_err(|_| Problem::Silent(within))?
            .map_err(|error| Problem::of(&error))?;
        let (head, body) = response.into_parts();
        let answer = Answer::new(body);
        if head.status.is_success() {
            return Ok(answer);
        }
        let wait = head.headers.get(header::RETRY_AFTER);
        let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok());
        // The status alone says enough if the body does not arrive.
        let text = answer.whole(ERROR_MOST, within).await.unwrap_or_default();
        let message = match serde_json::from_slice::<Status>(&text) {
            Ok(status) => status.message,
            Err(_) => String::from_utf8_lossy(&text).into_owned(),
        };
        let wait = wait.map(Duration::from_secs);
        Err(Problem::status(head.status.as_u16(), &message, wait))
    }
}

impl Answer {
    const fn new(body: Body) -> Self {
        Self {
            body,
            line: Vec::new(),
            ends: 0,
            searched: 0,
        }
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let frame = self.body.frame().await.transpose();
            let Some(frame) = frame.map_err(|error| Problem::of(&error))? else {
                return Ok(None);
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Everything, at most `most` bytes. Each part must arrive `within` this time.
    pub(super) async fn whole(mut self, most: usize, within: Duration) -> Result<Vec<u8>, Problem> {
        let mut all = Vec::new();
        loop {
            let next = timeout(within, self.bytes()).await;
            let Some(bytes) = next.map_err(|_| Problem::Silent(within))?? else {
                return Ok(all);
            };
            if all.len() + bytes.len() > most {
                return Err(Problem::TooLarge(most));
            }
            all.extend_from_slice(&bytes);
        }
    }

    /// The next line, at most `most` bytes, if it comes before `until`. A part that came stays for the next call.
    pub(super) async fn line(&mut self, most: usize, until: Instant) -> Result<Line<'_>, Problem> {
        self.line.drain(..self.ends);
        self.ends = 0;
        loop {
            let rest = &self.line[self.searched..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + end;
                (self.ends, self.searched) = (end + 1, 0);
                return Ok(Line::Text(&self.line[..end]));
            }
            self.searched = self.line.len();
            if self.searched > most {
                return Err(Problem::TooLarge(most));
            }
            let Ok(next) = timeout_at(until, self.bytes()).await else {
                return Ok(Line::Late);
            };
            let Some(bytes) = next? else {
                return Ok(Line::End);
            };
            self.line.extend_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &str, most: usize) -> Vec<Result<String, Problem>> {
        let mut answer = Answer::new(Body::from(text.as_bytes().to_vec()));
        let mut all = Vec::new();
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            match answer.line(most, until).await {
                Ok(Line::End | Line::Late) => return all,
                Ok(Line::Text(line)) => all.push(Ok(String::from_utf8(line.to_vec()).unwrap())),
                Err(problem) => {
                    all.push(Err(problem));
                    return all;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_line_is_whole_or_not_there() {
        let line = |text: &str| Ok(text.to_owned());
        assert_eq!(
            lines("ab\n\ncd\ne", 9).await,
            [line("ab"), line(""), line("cd")]
        );
        assert_eq!(lines("", 9).await, []);
        assert_eq!(lines("abcd", 3).await, [Err(Problem::TooLarge(3))]);
    }

    #[tokio::test]
    async fn an_answer_beyond_its_limit_is_not_kept() {
        let answer = |text: &str| Answer::new(Body::from(text.as_bytes().to_vec()));
        let second = Duration::from_secs(1);
        assert_eq!(answer("abc").whole(3, second).await, Ok(b"abc".to_vec()));
        assert_eq!(
            answer("abcd").whole(3, second).await,
            Err(Problem::TooLarge(3))
        );
    }
}
