//! The operator's token: who holds it may change things, everyone else may look at what is public.
//!
//! A daemon makes its token at the first start and keeps it as a secret file; a command line tool on the same machine
//! reads that file, an operator elsewhere is given a copy. It travels as `authorization: Bearer …`, is compared in
//! constant time, and is never printed.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;
use tonic::service::Interceptor;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};
use crate::secrets;

/// The name of the token's file in a data folder.
pub const FILE: &str = "operator.token";

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// The operator's token. It has no `Debug`, so that it cannot slip into a log.
#[derive(Clone)]
pub struct OperatorToken(Arc<Zeroizing<String>>);

impl OperatorToken {
    /// Reads the token at this path, or makes one if there is none.
    pub fn open_or_create(path: &Path) -> Result<OperatorToken, Failure> {
        if !secrets::exists(path)? {
            let random = secrets::random::<TOKEN_BYTES>();
            let text = Zeroizing::new(data_encoding::BASE64URL_NOPAD.encode(random.as_slice()));
            secrets::create(path, text.as_bytes())?;
        }
        OperatorToken::read(path)
    }

    /// Reads the token at this path.
    pub fn read(path: &Path) -> Result<OperatorToken, Failure> {
        let bytes = secrets::read(path)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        let decoded = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map(Zeroizing::new);
        match decoded {
            Ok(decoded) if decoded.len() == TOKEN_BYTES => Ok(OperatorToken(Arc::new(Zeroizing::new(text.to_owned())))),
            _ => Err(Failure::new(Exit::Config, "E-TOKEN-02", format!("{} is not an operator's token", path.display()))
                .hint("copy the file again from the daemon's data folder; or delete it there and restart the daemon for a new one")),
        }
    }

    /// Whether this text is the token.
    pub fn matches(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }

    /// Whether a request bears the token.
    pub fn admits(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match bearer {
            Some(presented) if self.matches(presented) => Ok(()),
            Some(_) => Err(refusal("the token presented is not the operator's")),
            None => Err(refusal("no token was presented")),
        }
    }

    /// Checks each call of a gRPC service, on the server.
    pub fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    /// Puts the token on each call, at the client.
    pub fn bearer(&self) -> Bearer {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", self.0.as_str())).expect("base64url fits in a header");
        value.set_sensitive(true);
        Bearer(value)
    }

    /// Admits only requests with the token to these web routes.
    pub fn protect<S: Clone + Send + Sync + 'static>(&self, routes: axum::Router<S>) -> axum::Router<S> {
        routes.layer(middleware::from_fn_with_state(self.clone(), check_web))
    }
}

/// The server's half: refuses calls without the token.
#[derive(Clone)]
pub struct Guard(OperatorToken);

impl Interceptor for Guard {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        match self.0.admits(request.metadata().as_ref()) {
            Ok(()) => Ok(request),
            Err(failure) => {
                let detailed = Status::from(failure);
                Err(Status::with_details(Code::Unauthenticated, detailed.message(), detailed.details().to_vec().into()))
            }
        }
    }
}

/// The client's half: presents the token.
#[derive(Clone)]
pub struct Bearer(HeaderValue);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().as_mut().insert(header::AUTHORIZATION, self.0.clone());
        Ok(request)
    }
}

async fn check_web(State(token): State<OperatorToken>, request: Request, next: Next) -> Response {
    match token.admits(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(failure) => {
            let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
            (challenge, failure.problem(StatusCode::UNAUTHORIZED)).into_response()
        }
    }
}

fn refusal(why: &str) -> Failure {
    Failure::new(Exit::NotAllowed, "E-TOKEN-01", "this is for the operator")
        .why(why)
        .hint("present the token from operator.token in the daemon's data folder")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_folder::DataFolder;

    fn token() -> (tempfile::TempDir, DataFolder, OperatorToken) {
        let outer = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(outer.path().join("data")).unwrap();
        let token = OperatorToken::open_or_create(&folder.file(FILE)).unwrap();
        (outer, folder, token)
    }

    #[test]
    fn token_survives_a_restart() {
        let (_outer, folder, token) = token();
        let again = OperatorToken::open_or_create(&folder.file(FILE)).unwrap();
        assert!(again.matches(&token.0));
    }

    #[test]
    fn guard_admits_the_bearer_and_nobody_else() {
        let (_outer, _folder, token) = token();
        let (_other_outer, _other_folder, other) = self::token();
        let present = |bearer: &OperatorToken| bearer.bearer().call(tonic::Request::new(())).unwrap();
        assert!(token.guard().call(present(&token)).is_ok());
        for request in [present(&other), tonic::Request::new(())] {
            let status = token.guard().call(request).unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated);
            assert_eq!(Failure::from(status).code, "E-TOKEN-01");
        }
    }

    #[test]
    fn token_is_not_printed_with_a_request() {
        let (_outer, _folder, token) = token();
        let request = token.bearer().call(tonic::Request::new(())).unwrap();
        assert!(!format!("{request:?}").contains(token.0.as_str()));
    }

    #[test]
    fn damaged_token_is_refused() {
        let (_outer, folder, _token) = token();
        let path = folder.file(FILE);
        secrets::replace(&path, b"").unwrap();
        assert_eq!(OperatorToken::read(&path).err().unwrap().code, "E-TOKEN-02");
    }
}
