//! Secrets on disk and in memory: random, private, erased.
//!
//! A secret file is a regular file of mode 0600 in a folder of mode 0700, both owned by the user who runs the daemon;
//! this is checked at every read, since a backup or an editor may have changed it. Writing is atomic and durable:
//! whoever is killed half way leaves the old file or the new one. Secrets are zeroed when dropped and are never logged.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};

/// The largest secret file that is read: certificate chains are the largest that we have.
const MAX_SECRET_BYTES: u64 = 256 << 10;

/// Fresh bytes from the operating system.
pub fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut()).expect("the operating system gives random bytes");
    bytes
}

/// Reads a key of exactly 32 bytes.
pub fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let bytes = read(path)?;
    let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| {
        Failure::new(Exit::Integrity, "E-SECRET-03", format!("{} is not a key", path.display()))
            .why(format!("it has {} bytes, a key has 32", bytes.len()))
            .hint("restore it from a backup; without it, what it protects cannot be opened")
    })?;
    Ok(Zeroizing::new(key))
}

/// Reads a key of 32 bytes, or makes one from the operating system's randomness if there is no such file.
pub fn read_or_create_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, Failure> {
    if !exists(path)? {
        let key = random::<32>();
        create(path, key.as_slice())?;
    }
    read_key(path)
}

/// Reads a secret file after checking that it is private.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let cannot = |error: io::Error| Failure::io(format!("cannot read {}", path.display()), &error);
    check_folder(path)?;
    // O_NONBLOCK: opening a pipe that someone put here must not hang.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    check_file(path, &file.metadata().map_err(cannot)?)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    match bytes.len() as u64 > MAX_SECRET_BYTES {
        true => Err(Failure::new(Exit::Config, "E-SECRET-02", format!("{} is too large for a secret", path.display()))),
        false => Ok(bytes),
    }
}

/// Creates a secret file that does not exist yet. If it has appeared meanwhile, it is left as it is.
pub fn create(path: &Path, secret: &[u8]) -> Result<(), Failure> {
    let temporary = written_beside(path, secret)?;
    match temporary.persist_noclobber(path) {
        Ok(_) => sync_folder(path),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Failure::io(format!("cannot write {}", path.display()), &error.error)),
    }
}

/// Puts a private file in place of whatever was there.
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let temporary = written_beside(path, contents)?;
    temporary.persist(path).map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error.error))?;
    sync_folder(path)
}

/// Whether there is anything at this path.
pub(crate) fn exists(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| Failure::io(format!("cannot look at {}", path.display()), &error))
}

/// A temporary file, mode 0600, in the same folder, with its contents on disk.
fn written_beside(path: &Path, contents: &[u8]) -> Result<tempfile::NamedTempFile, Failure> {
    let cannot = |error: io::Error| Failure::io(format!("cannot write {}", path.display()), &error);
    let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(folder_of(path)).map_err(cannot)?;
    temporary.write_all(contents).map_err(cannot)?;
    temporary.as_file().sync_all().map_err(cannot)?;
    Ok(temporary)
}

fn sync_folder(path: &Path) -> Result<(), Failure> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Failure::io(format!("cannot sync folder {}", folder.display()), &error))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn check_folder(path: &Path) -> Result<(), Failure> {
    let folder = folder_of(path);
    let metadata = fs::metadata(folder)
        .map_err(|error| Failure::io(format!("cannot look at folder {}", folder.display()), &error))?;
    check_owner_and_mode(folder, &metadata, "700")
}

fn check_file(path: &Path, metadata: &fs::Metadata) -> Result<(), Failure> {
    match metadata.is_file() {
        true => check_owner_and_mode(path, metadata, "600"),
        false => Err(Failure::new(Exit::Config, "E-SECRET-04", format!("{} is not a file", path.display()))),
    }
}

fn check_owner_and_mode(path: &Path, metadata: &fs::Metadata, right_mode: &str) -> Result<(), Failure> {
    let user = rustix::process::geteuid().as_raw();
    let exposed = |why: String, hint: String| {
        Err(Failure::new(Exit::NotAllowed, "E-SECRET-01", format!("{} is not private", path.display()))
            .why(why)
            .hint(hint))
    };
    if metadata.uid() != user {
        let why = format!("it belongs to user {}, this process runs as user {user}", metadata.uid());
        return exposed(why, format!("sudo chown {user} {}", path.display()));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        let why = format!("its mode is {mode:04o}: others could read or replace it");
        return exposed(why, format!("chmod {right_mode} {}", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn private_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    fn key_is_made_once_and_read_back() {
        let folder = private_folder();
        let path = folder.path().join("key");
        let made = read_or_create_key(&path).unwrap();
        assert_eq!(read_or_create_key(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_ne!(*made, [0; 32]);
    }

    #[test]
    fn key_that_others_can_read_is_refused_with_the_command_that_helps() {
        let folder = private_folder();
        let path = folder.path().join("key");
        create(&path, &[7; 32]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let failure = read_key(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::NotAllowed);
        assert_eq!(failure.hint, Some(format!("chmod 600 {}", path.display())));
    }

    #[test]
    fn key_in_a_folder_that_others_can_enter_is_refused() {
        let folder = private_folder();
        let path = folder.path().join("key");
        create(&path, &[7; 32]).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(read_key(&path).unwrap_err().code, "E-SECRET-01");
    }

    #[test]
    fn key_of_the_wrong_length_is_refused() {
        let folder = private_folder();
        let path = folder.path().join("key");
        create(&path, &[7; 31]).unwrap();
        assert_eq!(read_key(&path).unwrap_err().exit, Exit::Integrity);
    }

    #[test]
    fn creating_never_overwrites_and_replacing_does() {
        let folder = private_folder();
        let path = folder.path().join("key");
        create(&path, b"first").unwrap();
        create(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().as_slice(), b"first");
        replace(&path, b"third").unwrap();
        assert_eq!(read(&path).unwrap().as_slice(), b"third");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn folder_and_missing_file_are_not_secrets() {
        let folder = private_folder();
        fs::create_dir(folder.path().join("key")).unwrap();
        assert!(read(&folder.path().join("key")).is_err());
        assert_eq!(read(&folder.path().join("none")).unwrap_err().exit, Exit::NotFound);
    }
}
