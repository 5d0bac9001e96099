//! The secrets that tills sign with: the live one and the one before it.
//!
//! Two files in the data folder, read for every message, so that a new secret holds from the next message on. Making a
//! new one turns the live one into the one before, and ends the one before that.

use std::path::{Path, PathBuf};

use daemon::{Exit, Failure, secrets};
use data_encoding::BASE64;
use zeroize::Zeroizing;

/// The secret that holds.
pub(crate) const LIVE: &str = "webhook.secret";
/// The secret that held before, and holds until the next change.
pub(crate) const BEFORE: &str = "webhook.secret.before";

const PREFIX: &str = "whsec_";
/// Bytes of randomness: what Standard Webhooks recommends.
const SECRET_LEN: usize = 32;
/// Shortest secret that is taken: what Standard Webhooks demands.
const MIN_SECRET_LEN: usize = 24;

/// Where the secrets of tills are.
#[derive(Debug, Clone)]
pub(crate) struct WebhookSecrets {
    folder: PathBuf,
}

impl WebhookSecrets {
    pub(crate) fn new(folder: &Path) -> WebhookSecrets {
        WebhookSecrets { folder: folder.to_owned() }
    }

    /// Reads the one or two that hold.
    pub(crate) async fn read(&self) -> Result<Vec<Zeroizing<Vec<u8>>>, Failure> {
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || [LIVE, BEFORE].map(|name| read_one(&folder.join(name))));
        let read = read.await.map_err(|error| {
            Failure::new(Exit::Failed, "E-WEBHOOK-04", "the webhook secrets cannot be read").why(error)
        })?;
        let found: Vec<_> = read.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
        match found.is_empty() {
            true => Err(Failure::new(Exit::Config, "E-WEBHOOK-04", "no till is set up")
                .hint("make a secret with `keyserver webhook secret new`, and give it to the till")),
            false => Ok(found),
        }
    }
}

/// Makes a new secret in a data folder; the live one holds on beside it.
pub(crate) fn renew(folder: &Path) -> Result<Zeroizing<String>, Failure> {
    let (live, before) = (folder.join(LIVE), folder.join(BEFORE));
    if let Some(text) = read_text(&live)? {
        secrets::replace(&before, text.as_bytes())?;
    }
    let random = secrets::random::<SECRET_LEN>();
    let text = Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(random.as_slice())));
    secrets::replace(&live, text.as_bytes())?;
    Ok(text)
}

fn read_one(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let secret =
        text.trim().strip_prefix(PREFIX).and_then(|base64| BASE64.decode(base64.as_bytes()).ok()).map(Zeroizing::new);
    match secret {
        Some(secret) if secret.len() >= MIN_SECRET_LEN => Ok(Some(secret)),
        _ => Err(Failure::new(Exit::Config, "E-WEBHOOK-04", format!("{} is not a webhook secret", path.display()))
            .why(format!("it has to be {PREFIX} and base64 of at least {MIN_SECRET_LEN} bytes"))
            .hint("make a new one with `keyserver webhook secret new`")),
    }
}

fn read_text(path: &Path) -> Result<Option<Zeroizing<String>>, Failure> {
    match secrets::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()))),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn private_folder() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder")
    }

    #[tokio::test]
    async fn the_secret_before_holds_until_the_next_change() {
        let folder = private_folder();
        let secrets = WebhookSecrets::new(folder.path());
        assert_eq!(secrets.read().await.expect_err("none yet").code, "E-WEBHOOK-04");
        let made: Vec<_> = (0..3).map(|_| renew(folder.path()).expect("made")).collect();
        let decoded =
            |text: &str| BASE64.decode(text.strip_prefix(PREFIX).expect("prefix").as_bytes()).expect("base64");
        let holding: Vec<_> = secrets.read().await.expect("two").iter().map(|secret| secret.to_vec()).collect();
        assert_eq!(holding, [decoded(&made[2]), decoded(&made[1])]);
    }

    #[tokio::test]
    async fn a_short_secret_is_refused() {
        let folder = private_folder();
        secrets::replace(&folder.path().join(LIVE), b"whsec_AAAA").expect("written");
        assert!(WebhookSecrets::new(folder.path()).read().await.is_err());
    }
}
