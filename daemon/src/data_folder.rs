//! The one folder in which a daemon keeps everything: found, checked, locked.
//!
//! A folder is private (0700, owned by the user who runs the daemon) or it is refused with the command that makes it
//! so. One daemon at a time: the lock is an advisory lock of the kernel on `lock`, so that it is gone with the
//! process, however that ended. Command line tools look without locking, through [`Inspection`].

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exit::{Exit, Failure};
use crate::secrets;

const LOCK: &str = "lock";
const ENDPOINT: &str = "endpoint";

/// A tool that inspects a folder holds its lock for an instant; a starting daemon tries again rather than fail on it.
const LOCK_TRIES: u32 = 5;
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The folder of configuration files of the user: `$XDG_CONFIG_HOME` or `~/.config`.
pub fn config_home() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

/// Where a role keeps its data unless it is told otherwise: `$XDG_DATA_HOME/reelswarm/<role>`.
pub fn default_path(role: &str) -> Result<PathBuf, Failure> {
    let home = xdg("XDG_DATA_HOME", ".local/share").ok_or_else(|| {
        Failure::new(Exit::Config, "E-DATA-01", "there is no place for data by default")
            .why("neither XDG_DATA_HOME nor HOME is set")
            .hint("name a folder with --data FOLDER")
    })?;
    Ok(home.join("reelswarm").join(role))
}

fn xdg(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}

/// A data folder that is private, writable and held by this process.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Holds the kernel's lock for as long as this value lives.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder if need be, checks it and takes its lock.
    pub fn open(path: impl Into<PathBuf>) -> Result<DataFolder, Failure> {
        let path = path.into();
        create_private(&path)?;
        check_private(&path)?;
        let lock = take_lock(&path)?;
        Ok(DataFolder { path, _lock: lock })
    }

    /// Looks at a folder that a daemon may be running in, without taking its lock.
    pub fn inspect(path: impl Into<PathBuf>) -> Result<Inspection, Failure> {
        let path = path.into();
        check_private(&path)?;
        let daemon = pid_of_holder(&path)?;
        Ok(Inspection { path, daemon })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in this folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A private folder in this folder, created if need be.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.path.join(name);
        create_private(&path)?;
        check_private(&path)?;
        Ok(path)
    }

    /// Notes under which address the daemon can be reached, for [`Inspection::endpoint`].
    pub fn note_endpoint(&self, url: &str) -> Result<(), Failure> {
        secrets::replace(&self.file(ENDPOINT), url.as_bytes())
    }
}

/// What a command line tool sees of a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    path: PathBuf,
    daemon: Option<u32>,
}

impl Inspection {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in this folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The process id of the daemon that holds the folder now.
    pub fn daemon(&self) -> Option<u32> {
        self.daemon
    }

    /// Where the daemon that holds the folder can be reached.
    pub fn endpoint(&self) -> Result<String, Failure> {
        let not_running = || {
            Failure::new(Exit::Unreachable, "E-DATA-06", format!("no daemon runs in {}", self.path.display()))
                .hint("start it with `run`, or name its address")
        };
        self.daemon.ok_or_else(not_running)?;
        let endpoint =
            secrets::read(&self.file(ENDPOINT)).map_err(|_| not_running().why("it has not told its address yet"))?;
        Ok(String::from_utf8_lossy(&endpoint).into_owned())
    }
}

fn create_private(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        let hint = format!("choose another folder, or create it: mkdir -p -m 700 {}", quoted(path));
        Failure::io(format!("cannot create folder {}", path.display()), &error).hint(hint)
    })
}

/// Checks that only the user who runs this process can look into the folder, and that it can be written.
fn check_private(path: &Path) -> Result<(), Failure> {
    let refuse = |why: String, hint: String| {
        Err(Failure::new(
            Exit::NotAllowed,
            "E-DATA-02",
            format!("folder {} is not fit for private data", path.display()),
        )
        .why(why)
        .hint(hint))
    };
    let metadata = fs::metadata(path).map_err(|error| {
        Failure::io(format!("cannot look at folder {}", path.display()), &error).hint("check the path")
    })?;
    if !metadata.is_dir() {
        return refuse("it is a file".to_owned(), "name a folder".to_owned());
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.uid() != user {
        let why = format!("it belongs to user {}, this process runs as user {user}", metadata.uid());
        return refuse(why, format!("sudo chown -R {user} {}", quoted(path)));
    }
    let mode = metadata.mode() & 0o777;
    if mode != 0o700 {
        return refuse(format!("its mode is {mode:04o}, it has to be 0700"), format!("chmod 700 {}", quoted(path)));
    }
    match rustix::fs::access(path, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ROFS) => refuse(
            "its file system is mounted read-only".to_owned(),
            format!("sudo mount -o remount,rw \"$(findmnt -no TARGET -T {})\"", quoted(path)),
        ),
        Err(error) => {
            refuse(format!("it cannot be written: {}", io::Error::from(error)), format!("chmod 700 {}", quoted(path)))
        }
    }
}

fn take_lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join(LOCK);
    let failed = |error: &io::Error| Failure::io(format!("cannot lock {}", path.display()), error);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed(&error))?;
    for tries_left in (0..LOCK_TRIES).rev() {
        match lock.try_lock() {
            Ok(()) => {
                let pid = std::process::id().to_string();
                lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes())).map_err(|error| failed(&error))?;
                return Ok(lock);
            }
            Err(TryLockError::WouldBlock) if tries_left > 0 => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
    let holder = pid_in(&mut lock).map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"));
    Err(Failure::new(Exit::Conflict, "E-DATA-03", format!("already running ({holder})"))
        .why(format!("another process holds {}", folder.display()))
        .hint("stop it first, or give this one another folder with --data FOLDER"))
}

fn pid_of_holder(folder: &Path) -> Result<Option<u32>, Failure> {
    let path = folder.join(LOCK);
    let mut lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io(format!("cannot look at {}", path.display()), &error)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(pid_in(&mut lock)),
        Err(TryLockError::Error(error)) => Err(Failure::io(format!("cannot look at {}", path.display()), &error)),
    }
}

fn pid_in(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn with_mode(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("data");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (outer, path)
    }

    #[test]
    fn folder_is_created_private() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("a/b");
        let folder = DataFolder::open(&path).unwrap();
        assert_eq!(mode_of(folder.path()), 0o700);
        assert_eq!(mode_of(&folder.folder("inner").unwrap()), 0o700);
    }

    #[test]
    fn second_start_on_one_folder_names_the_first() {
        let (_outer, path) = with_mode(0o700);
        let _first = DataFolder::open(&path).unwrap();
        let second = DataFolder::open(&path).unwrap_err();
        assert_eq!(second.exit, Exit::Conflict);
        assert_eq!(second.what, format!("already running (pid {})", std::process::id()));
    }

    #[test]
    fn folder_can_be_opened_again_when_its_holder_is_gone() {
        let (_outer, path) = with_mode(0o700);
        drop(DataFolder::open(&path).unwrap());
        assert_eq!(DataFolder::inspect(&path).unwrap().daemon(), None);
        assert!(DataFolder::open(&path).is_ok());
    }

    #[test]
    fn folder_that_others_can_read_is_refused_with_the_command_that_helps() {
        for mode in [0o755, 0o777, 0o750, 0o500] {
            let (_outer, path) = with_mode(mode);
            let failure = DataFolder::open(&path).unwrap_err();
            assert_eq!(failure.exit, Exit::NotAllowed);
            assert_eq!(failure.hint, Some(format!("chmod 700 {}", path.display())));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn file_in_place_of_a_folder_is_refused() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("data");
        fs::write(&path, "").unwrap();
        assert!(DataFolder::open(&path).is_err());
    }

    #[test]
    fn inspection_finds_the_daemon_and_its_address() {
        let (_outer, path) = with_mode(0o700);
        let daemon = DataFolder::open(&path).unwrap();
        let seen = DataFolder::inspect(&path).unwrap();
        assert_eq!(seen.daemon(), Some(std::process::id()));
        assert_eq!(seen.endpoint().unwrap_err().exit, Exit::Unreachable);
        daemon.note_endpoint("http://127.0.0.1:7001").unwrap();
        assert_eq!(seen.endpoint().unwrap(), "http://127.0.0.1:7001");
    }

    #[test]
    fn commands_in_hints_survive_spaces_and_quotes() {
        assert_eq!(quoted(Path::new("/a/b")), "/a/b");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
