//! Secures TCP connections: libp2p's Noise, and the same handshake with AES-256-GCM where both processors have it.
//!
//! `/noise` is byte for byte what libp2p specifies, so any libp2p node connects. `/reelswarm/noise-aes/1` differs in the
//! cipher alone, which takes a third of the time on a processor with AES instructions. Which of the two is spoken is
//! agreed in clear, where a man in the middle can strike out the faster one; therefore each side repeats, under the
//! protection of the handshake, what it would have accepted, and a connection that is not the best common choice is
//! refused (docs/security.md). Keeps no connection and knows nothing of what travels over it.

mod identity;
mod keys;
mod records;

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::PeerId;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use snow::HandshakeState;
use zeroize::Zeroizing;

use self::identity::Statement;
use self::keys::Resolver;
pub(super) use self::records::Records;

/// Longest handshake message that is read. Ours have about 250 bytes; those of a libp2p node with an RSA identity, 1,200.
const HANDSHAKE_MAX: usize = 4 << 10;
/// Records under one key of AES-GCM; far below where its safety begins to wear off (RFC 8446, 5.5: 2^24.5).
const REKEY_EVERY: u64 = 1 << 20;

/// Which cipher a connection is secured with, the better one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suite {
    /// Ours: AES-256-GCM.
    Aes,
    /// That of every libp2p node: ChaCha20-Poly1305.
    ChaCha,
}

impl Suite {
    /// Its name in the negotiation.
    const fn protocol(self) -> &'static str {
        match self {
            Self::Aes => "/reelswarm/noise-aes/1",
            Self::ChaCha => "/noise",
        }
    }

    const fn noise_name(self) -> &'static str {
        match self {
            Self::Aes => "Noise_XX_25519_AESGCM_SHA256",
            Self::ChaCha => "Noise_XX_25519_ChaChaPoly_SHA256",
        }
    }

    /// What this processor does well.
    pub(super) fn of_this_machine() -> Vec<Self> {
        if has_aes() { vec![Self::Aes, Self::ChaCha] } else { vec![Self::ChaCha] }
    }
}

/// Without such instructions AES is slower than ChaCha20, and its tables can be watched through the cache.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// Why a connection was not secured. It is closed; nothing was sent over it but the handshake.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The connection broke, or ended in the middle of a message.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A message does not belong to this handshake: forged, altered, or of another protocol.
    #[error("a handshake message was rejected: {0}")]
    Noise(#[from] snow::Error),
    /// A message longer than any that is needed.
    #[error("a handshake message of {0} bytes, at most {HANDSHAKE_MAX} are allowed")]
    TooLong(usize),
    /// The other side does not prove who it is.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// Both sides would have spoken another protocol. Somebody between them has meddled with the negotiation.
    #[error("secured by {spoken} although both sides offer {best}: somebody in between removed the better one")]
    Downgraded {
        /// What was agreed on.
        spoken: &'static str,
        /// What both would have chosen.
        best: &'static str,
    },
}

/// How this device secures a connection.
#[derive(Clone)]
pub(super) struct Config {
    offered: Arc<[Suite]>,
    /// The X25519 key of this run, and its bond with the device's own key.
    private: Arc<Zeroizing<Vec<u8>>>,
    statement: Arc<Vec<u8>>,
}

impl Config {
    /// Speaks these, the first one preferred, in the name of `keypair`.
    pub(super) fn new(keypair: &Keypair, offered: Vec<Suite>) -> Result<Self, Error> {
        let snow::Keypair { private, public } = builder(Suite::ChaCha)?.generate_keypair()?;
        let names = offered.iter().map(|suite| suite.protocol());
        let statement = Statement::sign(keypair, &public, names)?.encode();
        Ok(Self { offered: offered.into(), private: Arc::new(Zeroizing::new(private)), statement: Arc::new(statement) })
    }

    async fn secure<T>(self, mut io: T, suite: Suite, is_dialer: bool) -> Result<(PeerId, Records<T>), Error>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let builder = builder(suite)?.local_private_key(&self.private)?;
        let mut noise = if is_dialer { builder.build_initiator()? } else { builder.build_responder()? };
        let peer = if is_dialer {
            send(&mut io, &mut noise, &[]).await?;
            let theirs = receive(&mut io, &mut noise).await?;
            // Judged before this side says who it is.
            let peer = self.judge(suite, &noise, &theirs)?;
            send(&mut io, &mut noise, &self.statement).await?;
            peer
        } else {
            receive(&mut io, &mut noise).await?;
            send(&mut io, &mut noise, &self.statement).await?;
            let theirs = receive(&mut io, &mut noise).await?;
            self.judge(suite, &noise, &theirs)?
        };
        let rekey_every = (suite == Suite::Aes).then_some(REKEY_EVERY);
        Ok((peer, Records::new(io, noise.into_transport_mode()?, rekey_every)))
    }

    /// Who the other side is, if it proves it and the best common protocol is spoken.
    fn judge(&self, spoken: Suite, noise: &HandshakeState, statement: &[u8]) -> Result<PeerId, Error> {
        let key = noise.get_remote_static().ok_or(identity::IdentityError::NoKey)?;
        let statement = Statement::decode(statement)?;
        let peer = statement.verify(key)?;
        // A node that says nothing of what it offers is one of libp2p's own, which knows but the one.
        let theirs = |suite: &&Suite| {
            if statement.offered.is_empty() {
                **suite == Suite::ChaCha
            } else {
                statement.offered.iter().any(|name| name == suite.protocol())
            }
        };
        let best = self.offered.iter().filter(theirs).min().copied().unwrap_or(Suite::ChaCha);
        if best == spoken {
            Ok(peer)
        } else {
            tracing::warn!(%peer, "a connection was secured by less than both sides offer: refused");
            Err(Error::Downgraded { spoken: spoken.protocol(), best: best.protocol() })
        }
    }
}

fn builder<'a>(suite: Suite) -> Result<snow::Builder<'a>, snow::Error> {
    Ok(snow::Builder::with_resolver(suite.noise_name().parse()?, Box::new(Resolver)))
}

/// One message of the handshake, after its length.
async fn send<T: AsyncWrite + Unpin>(io: &mut T, noise: &mut HandshakeState, payload: &[u8]) -> Result<(), Error> {
    let mut message = vec![0; 2 + HANDSHAKE_MAX];
    let len = noise.write_message(payload, &mut message[2..])?;
    // Below 4 KiB.
    message[..2].copy_from_slice(&(len as u16).to_be_bytes());
    io.write_all(&message[..2 + len]).await?;
    Ok(io.flush().await?)
}

async fn receive<T: AsyncRead + Unpin>(io: &mut T, noise: &mut HandshakeState) -> Result<Vec<u8>, Error> {
    let mut len = [0; 2];
    io.read_exact(&mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > HANDSHAKE_MAX {
        return Err(Error::TooLong(len));
    }
    let mut message = vec![0; len];
    io.read_exact(&mut message).await?;
    let mut payload = vec![0; len];
    let n = noise.read_message(&message, &mut payload)?;
    payload.truncate(n);
    Ok(payload)
}

impl UpgradeInfo for Config {
    type Info = Proposal;
    type InfoIter = std::vec::IntoIter<Proposal>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.offered.iter().map(|suite| Proposal(*suite)).collect::<Vec<_>>().into_iter()
    }
}

/// A suite under negotiation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proposal(Suite);

impl AsRef<str> for Proposal {
    fn as_ref(&self) -> &str {
        self.0.protocol()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<T> for Config {
    type Output = (PeerId, Records<T>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_inbound(self, io: T, proposal: Proposal) -> Self::Future {
        Box::pin(self.secure(io, proposal.0, false))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<T> for Config {
    type Output = (PeerId, Records<T>);
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Output, Error>>;

    fn upgrade_outbound(self, io: T, proposal: Proposal) -> Self::Future {
        Box::pin(self.secure(io, proposal.0, true))
    }
}

#[cfg(test)]
mod tests;
