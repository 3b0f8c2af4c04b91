//! One HTTP request to this machine, written by hand: what the test asks goes through no code of the agents.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

/// GET, or POST of a JSON body; status and body of the answer.
pub(crate) async fn request(url: &str, body: Option<&Value>) -> (u16, String) {
    let url: Url = url.parse().unwrap();
    let path = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
    let head = match body {
        None => format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"),
        Some(body) => {
            let body = body.to_string();
            let length = body.len();
            format!(
                "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        }
    };
    let mut connection = TcpStream::connect((host, port)).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
