//! Which request is answered, by whom, and how long it may take.
//!
//! gRPC goes to the services, everything else to the web routes. Whoever comes when too much is under way is told to
//! come back, at once. A request that takes too long, or whose handler panics, gets an answer that says so; nobody
//! else notices. The pages for machines (`/livez`, `/readyz`, `/metrics`) are answered whatever the load.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tonic_health::pb::health_server::{Health as GrpcHealth, HealthServer};
use tower::ServiceExt;

use super::{App, Limits};
use crate::exit::{Exit, Failure};

/// After how many seconds someone turned away may come back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Paths that are asked for by machines: by address, under any host name, also when everyone else has to wait.
const FOR_MACHINES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Lets requests in. Clones share the counts.
#[derive(Clone)]
pub(super) struct Admission(Arc<Inner>);

struct Inner {
    grpc: Router,
    web: Router,
    hosts: Hosts,
    /// Paths of the calls that stream in either direction and may take as long as they like.
    streaming: HashSet<String>,
    places: Semaphore,
    request_timeout: Duration,
    answers: Answers,
}

/// How many requests there were, by kind and by what became of them.
type Answers = Family<[(&'static str, &'static str); 2], Counter>;

/// The two kinds of request on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grpc,
    Web,
}

/// Why a request is not answered by its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Busy,
    TooSlow,
    Panicked,
    ForeignHost,
    OldHttp,
}

impl Admission {
    pub(super) fn new(
        app: App,
        health: HealthServer<impl GrpcHealth>,
        hosts: Hosts,
        limits: &Limits,
    ) -> Result<Admission, Failure> {
        let broken = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Failed, "E-SERVE-01", "the descriptors of the services are broken").why(why)
        };
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(app.descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| broken(&error))?;
        let mut streaming = HashSet::new();
        let own = [tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
        for descriptors in own.into_iter().chain([app.descriptors]) {
            streaming.extend(streaming_calls(descriptors).map_err(|error| broken(&error))?);
        }
        let answers = Answers::default();
        app.metrics.register(|registry| {
            registry.register("requests", "Requests by kind and by what became of them", answers.clone());
        });
        let metrics = app.metrics.clone();
        let web = app
            .web
            .merge(app.health.routes())
            .route("/metrics", get(move || async move { metrics.page() }))
            .layer(DefaultBodyLimit::max(usize::try_from(limits.web_body.bytes()).unwrap_or(usize::MAX)));
        Ok(Admission(Arc::new(Inner {
            grpc: app.grpc.add_service(health).add_service(reflection).into_axum_router(),
            web,
            hosts,
            streaming,
            places: Semaphore::new(limits.requests.min(Semaphore::MAX_PERMITS)),
            request_timeout: limits.request_timeout.get(),
            answers,
        })))
    }

    /// Answers a request, one way or another.
    pub(super) async fn answer(&self, request: Request<Body>) -> Response {
        let kind = Kind::of(request.headers());
        let (outcome, response) = match self.0.handle(kind, request).await {
            Ok(response) => ("answered", response),
            Err(refusal) => (refusal.name(), refusal.response(kind)),
        };
        self.0.answers.get_or_create(&[("kind", kind.name()), ("outcome", outcome)]).inc();
        response
    }
}

impl Inner {
    async fn handle(&self, kind: Kind, request: Request<Body>) -> Result<Response, Refusal> {
        let for_machines = kind == Kind::Web && FOR_MACHINES.contains(&request.uri().path());
        if for_machines {
            return self.run(&self.web, request).await;
        }
        let router = match kind {
            // A browser can be made to send anything over HTTP/1, so gRPC, which does not look at hosts, needs HTTP/2.
            Kind::Grpc if request.version() < Version::HTTP_2 => return Err(Refusal::OldHttp),
            Kind::Grpc => &self.grpc,
            Kind::Web if !self.hosts.admit(&request) => return Err(Refusal::ForeignHost),
            Kind::Web => &self.web,
        };
        let _place = self.places.try_acquire().map_err(|_| Refusal::Busy)?;
        if kind == Kind::Grpc && self.streaming.contains(request.uri().path()) {
            return self.run(router, request).await;
        }
        tokio::time::timeout(self.request_timeout, self.run(router, request)).await.unwrap_or(Err(Refusal::TooSlow))
    }

    async fn run(&self, router: &Router, request: Request<Body>) -> Result<Response, Refusal> {
        match AssertUnwindSafe(router.clone().oneshot(request)).catch_unwind().await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_panic) => {
                tracing::error!("a request handler panicked");
                Err(Refusal::Panicked)
            }
        }
    }
}

impl Kind {
    fn of(headers: &HeaderMap) -> Kind {
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        match content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
            true => Kind::Grpc,
            false => Kind::Web,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Grpc => "grpc",
            Kind::Web => "web",
        }
    }
}

impl Refusal {
    fn name(self) -> &'static str {
        match self {
            Refusal::Busy => "busy",
            Refusal::TooSlow => "too slow",
            Refusal::Panicked => "panicked",
            Refusal::ForeignHost => "foreign host",
            Refusal::OldHttp => "old http",
        }
    }

    fn failure(self) -> Failure {
        match self {
            Refusal::Busy => Failure::new(Exit::Unreachable, "E-SERVE-02", "too many requests at a time")
                .hint("try again in a second"),
            Refusal::TooSlow => {
                Failure::new(Exit::Unreachable, "E-SERVE-03", "the request took too long").hint("try again")
            }
            Refusal::Panicked => {
                Failure::new(Exit::Failed, "E-SERVE-04", "the request failed by a mistake in this program")
                    .hint("report it with the log of the daemon")
            }
            Refusal::ForeignHost => Failure::new(Exit::NotAllowed, "E-SERVE-05", "this host name is not served here")
                .hint("use localhost or the address itself, or add the name to server.hosts"),
            Refusal::OldHttp => Failure::new(Exit::Usage, "E-SERVE-06", "gRPC needs HTTP/2"),
        }
    }

    fn grpc_code(self) -> Code {
        match self {
            Refusal::Busy => Code::ResourceExhausted,
            Refusal::TooSlow => Code::DeadlineExceeded,
            Refusal::Panicked => Code::Internal,
            Refusal::ForeignHost => Code::PermissionDenied,
            Refusal::OldHttp => Code::InvalidArgument,
        }
    }

    fn response(self, kind: Kind) -> Response {
        if self == Refusal::OldHttp {
            return self.failure().problem(StatusCode::HTTP_VERSION_NOT_SUPPORTED);
        }
        let mut response = match kind {
            Kind::Web => self.failure().into_response(),
            Kind::Grpc => {
                let detailed = Status::from(self.failure());
                let details = detailed.details().to_vec().into();
                Status::with_details(self.grpc_code(), detailed.message(), details).into_http()
            }
        };
        if self == Refusal::Busy {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// The host names under which web pages may be asked for.
///
/// A page from elsewhere that makes a browser believe its own name leads to this machine (DNS rebinding) still sends
/// its own name. Plain addresses are always ours: there is no name in them to rebind.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts(BTreeSet<String>);

impl Hosts {
    pub(super) fn new<'a>(names: impl IntoIterator<Item = &'a String>) -> Hosts {
        Hosts(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn admit<B>(&self, request: &Request<B>) -> bool {
        let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let authority = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        authority.is_some_and(|authority| self.admit_name(authority))
    }

    fn admit_name(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<http::uri::Authority>() else { return false };
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let local = host == "localhost" || host.ends_with(".localhost");
        local || host.parse::<IpAddr>().is_ok() || self.0.contains(&host)
    }
}

/// The paths of the calls that stream in either direction.
fn streaming_calls(descriptors: &[u8]) -> Result<Vec<String>, prost::DecodeError> {
    let files = FileDescriptorSet::decode(descriptors)?.file;
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let paths = services.flat_map(|(package, service)| {
        let streams = service.method.iter().filter(|method| method.client_streaming() || method.server_streaming());
        streams.map(move |method| match package {
            "" => format!("/{}/{}", service.name(), method.name()),
            package => format!("/{package}.{}/{}", service.name(), method.name()),
        })
    });
    Ok(paths.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_ours_are_admitted_and_others_are_not() {
        let hosts = Hosts::new(&["Console.example".to_owned()]);
        for ours in [
            "localhost",
            "localhost:7001",
            "box.localhost",
            "127.0.0.1:80",
            "[::1]:80",
            "192.0.2.7",
            "console.EXAMPLE:443",
        ] {
            assert!(hosts.admit_name(ours), "{ours}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "notlocalhost"] {
            assert!(!hosts.admit_name(foreign), "{foreign}");
        }
    }

    #[test]
    fn streaming_calls_are_known_from_the_descriptors() {
        let calls = streaming_calls(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        assert_eq!(calls, ["/grpc.health.v1.Health/Watch"]);
        assert!(streaming_calls(&[0xff]).is_err());
    }
}
