//! A browser without a screen: pages, forms, and what an attacker would send instead.

use swarm_proto::id::OrderId;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::checkout_client::CheckoutClient;
use swarm_proto::pb::keyserver::open_checkout_request::Goal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::Process;
use crate::world::Device;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The value of the first hidden field of this name.
    pub(crate) fn hidden(&self, name: &str) -> &str {
        let start = format!("name=\"{name}\" value=\"");
        let from = self.body.find(&start).unwrap_or_else(|| panic!("no field {name}: {}", self.body)) + start.len();
        let rest = &self.body[from..];
        &rest[..rest.find('"').expect("a quoted value")]
    }
}

/// One request on a connection of its own.
pub(crate) async fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Answer> {
    let host =
        if headers.iter().any(|(name, _)| *name == "host") { String::new() } else { format!("host: {address}\r\n") };
    let mut request =
        format!("{method} {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.push_str(body);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

pub(crate) async fn get(keyserver: &Process, path: &str) -> Answer {
    ask(keyserver.address(), "GET", path, &[], "").await.expect("it answers")
}

/// Sends a form as a browser does from a page of the same site.
pub(crate) async fn send(keyserver: &Process, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
    let origin = format!("http://{}", keyserver.address());
    let mut all = vec![("content-type", "application/x-www-form-urlencoded"), ("origin", origin.as_str())];
    all.extend(headers);
    ask(keyserver.address(), "POST", path, &all, form).await.expect("it answers")
}

/// The path of a link to the checkout pages.
pub(crate) async fn open_checkout(device: &Device, keyserver: &Process, goal: Option<Goal>) -> String {
    let mut client = CheckoutClient::new(keyserver.channel().await);
    let request = device.call(keyserver, pb::OpenCheckoutRequest { goal });
    let opened = client.open_checkout(request).await.expect("a link").into_inner();
    opened.url.strip_prefix(&keyserver.url).expect("of this keyserver").to_owned()
}

pub(crate) fn order_text(order: &pb::Order) -> String {
    OrderId::try_from(order.order.as_slice()).expect("an id").to_string()
}

/// Polls until a page says this.
pub(crate) async fn until_page_says(keyserver: &Process, path: &str, words: &str) -> Answer {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let page = get(keyserver, path).await;
        if page.body.contains(words) {
            return page;
        }
        assert!(tokio::time::Instant::now() < deadline, "the page never says {words:?}: {}", page.body);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
