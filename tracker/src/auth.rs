//! Who makes a call: a device that proves its key, or the operator who holds the token.
//!
//! Checked once, where a call comes in; what goes further is a [`Caller`]. Whether a device still belongs here is the
//! state's to say.

mod proven;

use std::net::IpAddr;
use std::sync::Arc;

use daemon::exit::Failure;
use daemon::token::OperatorToken;
use swarm_proto::call::{self, CallToken};
use swarm_proto::id::{DeviceId, ServerId};
use swarm_proto::signed::Signed;
use tonic::{Request, Status};

use self::proven::Proven;
use crate::{clock, refusal};

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A device that has proven its key.
    Device(DeviceId),
    /// Whoever holds the operator's token.
    Operator,
}

/// Tells callers apart.
#[derive(Clone)]
pub(crate) struct Auth {
    server: ServerId,
    operator: OperatorToken,
    proven: Arc<Proven>,
}

impl Auth {
    pub(crate) fn new(server: ServerId, operator: OperatorToken) -> Auth {
        Auth { server, operator, proven: Arc::default() }
    }

    /// A device or the operator.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        match request.metadata().contains_key(call::METADATA_KEY) {
            true => self.device(request).map(Caller::Device),
            false => self.operator(request).map(|()| Caller::Operator),
        }
    }

    /// A device.
    pub(crate) fn device<T>(&self, request: &Request<T>) -> Result<DeviceId, Status> {
        let Some(text) = request.metadata().get(call::METADATA_KEY) else {
            let failure = match self.operator.admits(request.metadata().as_ref()) {
                Ok(()) => refusal::not_for_operators(),
                Err(_) => refusal::unproven(format!("metadata {} is missing", call::METADATA_KEY)),
            };
            return Err(refusal::status(failure));
        };
        let verify = || -> Result<DeviceId, Failure> {
            let text = text.to_str().map_err(|_| refusal::unproven("the call token is not text"))?;
            let now = clock::now().utc;
            if let Some(device) = self.proven.device(text, now) {
                return Ok(device);
            }
            let signed: Signed<CallToken> = Signed::from_text(text).map_err(refusal::unproven)?;
            let proof = CallToken::verify(&signed, &self.server, now).map_err(refusal::unproven)?;
            self.proven.insert(text, proof);
            Ok(proof.device)
        };
        verify().map_err(refusal::status)
    }

    /// The operator.
    pub(crate) fn operator<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if request.metadata().contains_key(call::METADATA_KEY) {
            return Err(refusal::status(refusal::not_for_devices()));
        }
        self.operator
            .admits(request.metadata().as_ref())
            .map_err(|failure| refusal::status(refusal::unproven(failure.why.unwrap_or(failure.what))))
    }
}

/// The address a call comes from.
pub(crate) fn address_of<T>(request: &Request<T>) -> Result<IpAddr, Status> {
    let address = request.remote_addr().ok_or_else(|| Status::internal("a call came from no address"))?;
    Ok(address.ip().to_canonical())
}
