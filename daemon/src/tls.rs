//! When and how a daemon's port is encrypted.
//!
//! Loopback may be plain. Any other address needs TLS, or the operator has to say `insecure` and is reminded at every
//! start. Keys made here stay in the data folder, private. The cryptography is ring's, named explicitly: another
//! provider is linked into the boxes, and whoever relies on the default of the process gets whichever came first.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::data_folder::DataFolder;
use crate::exit::{Exit, Failure};
use crate::secrets;

/// The folder in a data folder where a certificate made here and its key are kept.
const FOLDER: &str = "tls";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// Both protocols that a port speaks, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How a port is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Not at all, with a certificate made here, or with one from files.
    pub mode: Mode,
    /// The certificate chain in PEM, for `files`.
    pub cert_file: Option<PathBuf>,
    /// Its private key in PEM, mode 0600, for `files`.
    pub key_file: Option<PathBuf>,
    /// Names and addresses, besides those of this machine's loopback, that a certificate made here is valid for.
    pub names: Vec<String>,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No encryption.
    #[default]
    Off,
    /// Made at the first start and kept in the data folder. Clients are given its `tls/cert.pem` as authority.
    SelfSigned,
    /// Read from `cert_file` and `key_file`.
    Files,
}

/// Decides how the port at `listen` is encrypted: `None` means plain.
pub fn server(
    config: &Config,
    folder: &DataFolder,
    listen: SocketAddr,
    insecure: bool,
) -> Result<Option<Arc<ServerConfig>>, Failure> {
    let (certificate, key) = match config.mode {
        Mode::Off if listen.ip().is_loopback() => return Ok(None),
        Mode::Off if insecure => {
            tracing::warn!(%listen, "anyone on the way can read and change what this port carries");
            return Ok(None);
        }
        Mode::Off => return Err(refuse_plain(&format!("listening on {listen} without TLS"))),
        Mode::SelfSigned => self_signed(config, folder, listen)?,
        Mode::Files => match (&config.cert_file, &config.key_file) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            _ => {
                return Err(Failure::new(Exit::Config, "E-TLS-02", "TLS from files needs both files")
                    .hint("set server.tls.cert_file and server.tls.key_file"));
            }
        },
    };
    server_config(&certificate, &key).map(|config| Some(Arc::new(config)))
}

/// Where the certificate is that [`Mode::SelfSigned`] made in this data folder, for clients on the same machine.
pub fn self_signed_certificate(data_folder: &Path) -> PathBuf {
    data_folder.join(FOLDER).join(CERTIFICATE)
}

pub(crate) fn refuse_plain(what: &str) -> Failure {
    Failure::new(Exit::Config, "E-TLS-01", format!("{what} is refused"))
        .why("anyone on the way could read and change everything")
        .hint("use TLS (server.tls.mode = \"self-signed\" or \"files\", https:// for clients); or say --insecure if you mean it")
}

fn self_signed(config: &Config, folder: &DataFolder, listen: SocketAddr) -> Result<(PathBuf, PathBuf), Failure> {
    let folder = folder.folder(FOLDER)?;
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    if secrets::exists(&certificate)? && secrets::exists(&key)? {
        return Ok((certificate, key));
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.extend(config.names.iter().cloned());
    names.sort();
    names.dedup();
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| {
        Failure::new(Exit::Config, "E-TLS-03", "cannot make a certificate").why(error).hint("check server.tls.names")
    })?;
    // The key first: a start that is interrupted here finds no certificate and makes both again.
    secrets::replace(&key, Zeroizing::new(made.signing_key.serialize_pem()).as_bytes())?;
    secrets::replace(&certificate, made.cert.pem().as_bytes())?;
    tracing::info!(certificate = %certificate.display(), "made a certificate; give it to clients as their authority");
    Ok((certificate, key))
}

fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, Failure> {
    let unusable = |path: &Path, why: &dyn std::fmt::Display| {
        Failure::new(Exit::Config, "E-TLS-04", format!("{} cannot be used for TLS", path.display()))
            .why(why)
            .hint("it has to be PEM: a certificate chain, and the private key that belongs to it")
    };
    let pem = std::fs::read(certificate).map_err(|error| Failure {
        exit: Exit::Config,
        ..Failure::io(format!("cannot read {}", certificate.display()), &error)
    })?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(certificate, &error))?;
    let key_pem = secrets::read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| unusable(key, &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(certificate, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| unusable(certificate, &error))?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, DataFolder) {
        let outer = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(outer.path().join("data")).unwrap();
        (outer, folder)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn loopback_may_be_plain() {
        let (_outer, folder) = folder();
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            assert!(server(&Config::default(), &folder, address(listen), false).unwrap().is_none());
        }
    }

    #[test]
    fn plain_port_for_others_is_refused_unless_insecure_is_said() {
        let (_outer, folder) = folder();
        for listen in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0"] {
            let failure = server(&Config::default(), &folder, address(listen), false).unwrap_err();
            assert_eq!((failure.exit, failure.code.as_ref()), (Exit::Config, "E-TLS-01"));
            assert!(server(&Config::default(), &folder, address(listen), true).unwrap().is_none());
        }
    }

    #[test]
    fn certificate_is_made_once() {
        let (_outer, folder) = folder();
        let config = Config { mode: Mode::SelfSigned, ..Config::default() };
        assert!(server(&config, &folder, address("0.0.0.0:0"), false).unwrap().is_some());
        let path = self_signed_certificate(folder.path());
        let first = std::fs::read(&path).unwrap();
        assert!(server(&config, &folder, address("0.0.0.0:0"), false).unwrap().is_some());
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }

    #[test]
    fn files_that_are_not_named_or_not_pem_are_refused() {
        let (_outer, folder) = folder();
        let mut config = Config { mode: Mode::Files, ..Config::default() };
        assert_eq!(server(&config, &folder, address("0.0.0.0:0"), false).unwrap_err().code, "E-TLS-02");
        let junk = folder.file("junk");
        secrets::replace(&junk, b"not pem").unwrap();
        config.cert_file = Some(junk.clone());
        config.key_file = Some(junk);
        assert_eq!(server(&config, &folder, address("0.0.0.0:0"), false).unwrap_err().code, "E-TLS-04");
    }
}
