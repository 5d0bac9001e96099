//! One HTTP/1.1 request to a provider, with an end to every wait and to every answer.
//!
//! A connection for each request: payments are rare, and one that hangs takes nothing with it. `https` trusts the
//! system's authorities; `http` goes to loopback only.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use daemon::{Exit, Failure};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::Trouble;

/// Largest answer that is read: a payment with all its charges has some ten KiB.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// Where a provider is.
#[derive(Clone)]
pub(super) struct Client {
    authority: String,
    prefix: String,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    timeout: Duration,
}

impl Client {
    pub(super) fn new(base: &str, timeout: Duration) -> Result<Client, Failure> {
        let not_one = |why: &str| {
            Failure::new(Exit::Config, "E-STRIPE-01", format!("{base} is not the address of a provider"))
                .why(why)
                .hint("write it like https://api.stripe.com")
        };
        let uri: Uri = base.parse().map_err(|_| not_one("it is no URL"))?;
        let host = uri.host().ok_or_else(|| not_one("it names no host"))?.trim_matches(['[', ']']).to_owned();
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let tls = match uri.scheme_str() {
            Some("https") => Some(connector()?),
            Some("http") if loopback => None,
            Some("http") => return Err(not_one("without TLS anyone on the way could read the key")),
            _ => return Err(not_one("it begins with neither https:// nor http://")),
        };
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Client { authority, prefix, host, port, tls, timeout })
    }

    /// Asks, and reads the whole answer, or gives up.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        form: &[(String, String)],
    ) -> Result<(StatusCode, Bytes), Trouble> {
        let slow = |_| Trouble(format!("no answer from {} within {:?}", self.host, self.timeout));
        let asked = tokio::time::timeout(self.timeout, self.try_ask(method, path, headers, form)).await;
        asked.map_err(slow)?.map_err(|error| Trouble(format!("cannot ask {}: {error}", self.host)))
    }

    async fn try_ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        form: &[(String, String)],
    ) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
        let query = serde_urlencoded::to_string(form)?;
        let (path, body) = match method {
            Method::GET if query.is_empty() => (path.to_owned(), String::new()),
            Method::GET => (format!("{path}?{query}"), String::new()),
            _ => (path.to_owned(), query),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                exchange(tls.connect(name, stream).await?, request).await
            }
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok((status, body))
}

fn connector() -> Result<TlsConnector, Failure> {
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Config, "E-STRIPE-02", "there is nobody to trust for TLS to the provider")
            .why(why)
            .hint("install the system's certificates (package ca-certificates)")
    };
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| io::ErrorKind::NotFound.to_string(), ToString::to_string);
        return Err(cannot(&why));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| cannot(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
