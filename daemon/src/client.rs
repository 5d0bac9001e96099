//! How one of our programs reaches a daemon over gRPC.
//!
//! `http://` goes to loopback only, unless the user says `insecure`; `https://` trusts the system's authorities, or
//! exactly the file it is given. Every wait has an end. Whatever goes wrong on the way becomes a [`Failure`] of class
//! [`Exit::Unreachable`] that names the endpoint.

use std::error::Error as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::exit::{Exit, Failure};
use crate::tls;

/// How long it may take to connect.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How often an idle connection is probed, and how long the probe may take. The server's figures are the same.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// Largest block of headers that is read: error details travel in one.
const MAX_HEADERS: u32 = 32 << 10;

/// How far the client trusts the way to the endpoint.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The only authority to trust, instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether `http://` may go to another machine.
    pub insecure: bool,
}

/// Connects now, and fails now if nobody answers.
pub async fn connect(url: &str, trust: &Trust) -> Result<Channel, Failure> {
    endpoint(url, trust)?.connect().await.map_err(|error| unreachable(url, &error))
}

/// A channel that connects at its first call, and again whenever the connection was lost.
/// Has to be called within a runtime.
pub fn connect_lazily(url: &str, trust: &Trust) -> Result<Channel, Failure> {
    Ok(endpoint(url, trust)?.connect_lazy())
}

/// The failure that this status stands for, naming the endpoint if it could not be reached.
pub fn failure(url: &str, status: &tonic::Status) -> Failure {
    let failure = Failure::from(status);
    match status.source().and_then(|source| source.downcast_ref::<tonic::transport::Error>()) {
        Some(error) => unreachable(url, error),
        None => failure,
    }
}

fn endpoint(url: &str, trust: &Trust) -> Result<Endpoint, Failure> {
    let not_an_endpoint = |why: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, "E-NET-02", format!("{url} is not the address of a daemon"))
            .why(why)
            .hint("write it like http://127.0.0.1:7001 or https://tracker.example:7001")
    };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| not_an_endpoint(&error))?;
    let host = endpoint.uri().host().map(|host| host.trim_matches(['[', ']']).to_owned());
    let host = host.ok_or_else(|| not_an_endpoint(&"it names no host"))?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") if trust.insecure || is_loopback(&host) => endpoint,
        Some("http") => return Err(tls::refuse_plain(&format!("connecting to {url} without TLS"))),
        Some("https") => endpoint.tls_config(authorities(trust)?).map_err(|error| not_an_endpoint(&deepest(&error)))?,
        _ => return Err(not_an_endpoint(&"it starts with neither http:// nor https://")),
    };
    Ok(endpoint
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADERS))
}

fn authorities(trust: &Trust) -> Result<ClientTlsConfig, Failure> {
    let tls = ClientTlsConfig::new().timeout(CONNECT_WITHIN);
    let Some(path) = &trust.ca_file else { return Ok(tls.with_native_roots()) };
    let pem = std::fs::read(path).map_err(|error| Failure {
        exit: Exit::Config,
        ..Failure::io(format!("cannot read the authority {}", path.display()), &error)
    })?;
    Ok(tls.ca_certificate(Certificate::from_pem(pem)))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn unreachable(url: &str, error: &tonic::transport::Error) -> Failure {
    let why = deepest(error);
    let hint = match why.contains("certificate") || why.contains("UnknownIssuer") {
        true => {
            "name the authority that signed the other side's certificate; a self-made one is tls/cert.pem in its data folder"
        }
        false => "check that it runs and that the address is right, then try again",
    };
    Failure::new(Exit::Unreachable, "E-NET-01", format!("cannot reach {url}")).why(why).hint(hint)
}

/// The last cause of an error: the transport's own words are only "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, trust: &Trust) -> Failure {
        endpoint(url, trust).unwrap_err()
    }

    #[test]
    fn plain_connection_goes_to_loopback_only() {
        let trust = Trust::default();
        for url in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(endpoint(url, &trust).is_ok(), "{url}");
        }
        for url in ["http://192.0.2.1:1", "http://tracker.example", "http://localhost.example"] {
            assert_eq!(refusal(url, &trust).code, "E-TLS-01", "{url}");
            assert!(endpoint(url, &Trust { insecure: true, ..Trust::default() }).is_ok());
        }
    }

    #[test]
    fn address_that_is_none_is_refused_with_an_example() {
        for url in ["", "127.0.0.1:7001", "ftp://127.0.0.1", "no url", "/path"] {
            let failure = refusal(url, &Trust::default());
            assert_eq!((failure.exit, failure.code.as_ref()), (Exit::Usage, "E-NET-02"), "{url}");
        }
    }

    #[test]
    fn missing_authority_is_named() {
        let trust = Trust { ca_file: Some("/nowhere/ca.pem".into()), insecure: false };
        let failure = refusal("https://tracker.example", &trust);
        assert_eq!(failure.what, "cannot read the authority /nowhere/ca.pem");
    }

    #[tokio::test]
    async fn endpoint_that_does_not_answer_is_named() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{unused}");
        let failure = connect(&url, &Trust::default()).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert_eq!(failure.what, format!("cannot reach {url}"));
        assert!(failure.why.unwrap().contains("refused"));
    }
}
