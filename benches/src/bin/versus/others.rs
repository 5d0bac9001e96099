//! What one would take instead of us: how each is found, started as a source, and started as a sink.
//!
//! Each source and each sink is a process of its own; a source is ready before the clock starts. Nothing is fetched
//! from anywhere: a program that is not installed is reported with the command that installs it.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::measure::{self, FirstByte, Run, Seen};
use super::{Original, Shape, commands, torrent};

/// A source that is not ready by then has failed; hashing a large file counts.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a source is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Where contenders complain, beside their outputs.
const ERRORS: &str = "errors";

/// Another way to bring a file from here to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    RawTcp,
    Nginx,
    NginxTls,
    Libtorrent,
    LibtorrentEncrypted,
    Rqbit,
    IrohBlobs,
}

/// The programs of a contender.
pub(super) struct Programs {
    source: PathBuf,
    sink: PathBuf,
}

impl Other {
    pub(super) const ALL: [Other; 7] = [
        Other::RawTcp,
        Other::Nginx,
        Other::NginxTls,
        Other::Libtorrent,
        Other::LibtorrentEncrypted,
        Other::Rqbit,
        Other::IrohBlobs,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Other::RawTcp => "raw-tcp",
            Other::Nginx => "nginx-curl",
            Other::NginxTls => "nginx-curl-tls",
            Other::Libtorrent => "libtorrent",
            Other::LibtorrentEncrypted => "libtorrent-encrypted",
            Other::Rqbit => "rqbit",
            Other::IrohBlobs => "iroh-blobs",
        }
    }
}

/// The programs of a contender, or how to install what is missing.
pub(super) fn find(other: Other, folders: &[PathBuf]) -> Result<Programs, String> {
    let one = |name: &str, install: &str| program(name, folders).ok_or_else(|| install.to_owned());
    match other {
        Other::RawTcp => {
            let me = std::env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
            Ok(Programs { source: me.clone(), sink: me })
        }
        Other::Nginx | Other::NginxTls => {
            let install = "apt-get install nginx-light curl";
            Ok(Programs { source: one("nginx", install)?, sink: one("curl", install)? })
        }
        Other::Libtorrent | Other::LibtorrentEncrypted => {
            let python = [Some(PathBuf::from("/usr/bin/python3")), program("python3", folders)];
            let python = python.into_iter().flatten().find(|python| {
                let import = std::process::Command::new(python).args(["-c", "import libtorrent"]).output();
                import.is_ok_and(|output| output.status.success())
            });
            let python = python.ok_or("apt-get install python3-libtorrent")?;
            Ok(Programs { source: python.clone(), sink: python })
        }
        Other::Rqbit => {
            let rqbit = one("rqbit", "cargo install rqbit --locked, or name its folder with --programs")?;
            Ok(Programs { source: rqbit.clone(), sink: rqbit })
        }
        Other::IrohBlobs => {
            let install = "cargo install --path benches/iroh-pair --locked, or name its folder with --programs";
            let pair = one("iroh-pair", install)?;
            Ok(Programs { source: pair.clone(), sink: pair })
        }
    }
}

fn program(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let all = folders.iter().cloned().chain(std::env::split_paths(&path)).chain(system);
    all.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// How one run of a contender is set up.
struct Setup<'a> {
    other: Other,
    programs: &'a Programs,
    original: &'a Original,
    folder: &'a Path,
    port: u16,
}

/// Runs it once.
pub(super) async fn run(
    other: Other,
    programs: &Programs,
    shape: Shape,
    original: &Original,
    folder: &Path,
) -> anyhow::Result<Run> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let outputs: Vec<PathBuf> = (0..shape.0).map(|n| folder.join(format!("sink-{n}"))).collect();
    for output in &outputs {
        std::fs::create_dir_all(output)?;
    }
    rustix::fs::sync();
    let setup = Setup { other, programs, original, folder, port: free_port()? };
    setup.write_files()?;
    let mut source = setup.source()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("no source")?;
    let pid = source.id().context("the source has ended")?;
    let said = setup.ready(&mut source).await.with_context(|| format!("no source; {}", setup.complaint()))?;

    let (cpu_before, ended_before) = (measure::cpu_s(pid)?.0, measure::cpu_s(std::process::id())?.1);
    let begun = Instant::now();
    let mut sinks = Vec::new();
    for (n, output) in outputs.iter().enumerate() {
        sinks.push(setup.sink(n, output, &said)?.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    }
    let first_byte = FirstByte::within(outputs.clone(), (original.len / 2).min(1 << 20));
    let mut seen = Seen::default();
    measure::watch(begun, &first_byte, &mut seen, |seen| {
        let mut all_done = true;
        for sink in &mut sinks {
            if let Some(peak) = sink.id().and_then(measure::peak_rss) {
                seen.peak_rss_sink = seen.peak_rss_sink.max(peak);
            }
            match sink.try_wait()? {
                None => all_done = false,
                Some(status) => ensure!(status.success(), "a sink ended with {status}; {}", setup.complaint()),
            }
        }
        Ok(all_done)
    })
    .await?;
    seen.cpu_s_source = measure::cpu_s(pid)?.0 - cpu_before;
    seen.cpu_s_sinks = measure::cpu_s(std::process::id())?.1 - ended_before;
    seen.peak_rss_source = measure::peak_rss(pid).unwrap_or(0);
    source.kill().await?;
    for output in &outputs {
        original.check(&output.join("film.bin"))?;
    }
    std::fs::remove_dir_all(folder)?;
    Ok(seen.figures(original.len, shape.0))
}

impl Setup<'_> {
    fn torrent(&self) -> PathBuf {
        self.folder.join("film.torrent")
    }

    /// What the programs read: configuration, certificates, torrents.
    fn write_files(&self) -> anyhow::Result<()> {
        match self.other {
            Other::RawTcp | Other::IrohBlobs => Ok(()),
            Other::Nginx | Other::NginxTls => {
                let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
                std::fs::write(self.folder.join("cert.pem"), certified.cert.pem())?;
                std::fs::write(self.folder.join("key.pem"), certified.signing_key.serialize_pem())?;
                Ok(std::fs::write(self.folder.join("nginx.conf"), self.nginx_conf()?)?)
            }
            Other::Libtorrent | Other::LibtorrentEncrypted => {
                std::fs::write(self.folder.join("torrent_pair.py"), include_str!("torrent_pair.py"))?;
                torrent::write(&self.original.path, &self.torrent())
            }
            Other::Rqbit => torrent::write(&self.original.path, &self.torrent()),
        }
    }

    fn nginx_conf(&self) -> anyhow::Result<String> {
        let (dir, root) = (self.folder.display(), self.served_folder()?.display());
        let port = self.port;
        let tls = match self.other {
            Other::NginxTls => {
                format!(
                    "listen 127.0.0.1:{port} ssl; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;"
                )
            }
            _ => format!("listen 127.0.0.1:{port};"),
        };
        Ok(format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err; events {{}}\n\
             http {{ access_log off; sendfile on; sendfile_max_chunk 2m; client_body_temp_path {dir}/body;\n\
             proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;\n\
             scgi_temp_path {dir}/scgi; server {{ {tls} root {root}; }} }}\n"
        ))
    }

    fn served_folder(&self) -> anyhow::Result<&Path> {
        self.original.path.parent().context("the file is in a folder")
    }

    /// What the programs complain of goes to one file.
    fn command(&self, program: &Path) -> anyhow::Result<Command> {
        let errors = File::options().create(true).append(true).open(self.folder.join(ERRORS))?;
        let mut command = Command::new(program);
        command.kill_on_drop(true).current_dir(self.folder).env("HOME", self.folder).stderr(errors);
        Ok(command)
    }

    fn complaint(&self) -> String {
        let errors = std::fs::read_to_string(self.folder.join(ERRORS)).unwrap_or_default();
        errors.lines().last().map_or_else(|| "it said nothing".to_owned(), |line| format!("it said: {line}"))
    }

    fn source(&self) -> anyhow::Result<Command> {
        let mut command = self.command(&self.programs.source)?;
        let file = &self.original.path;
        match self.other {
            Other::RawTcp => command.args(["as", "raw-source"]).arg(file),
            Other::Nginx | Other::NginxTls => {
                let errors = self.folder.join("nginx.err");
                command.arg("-e").arg(errors).arg("-p").arg(self.folder).arg("-c").arg(self.folder.join("nginx.conf"))
            }
            Other::Libtorrent | Other::LibtorrentEncrypted => command
                .arg(self.folder.join("torrent_pair.py"))
                .arg("seed")
                .arg(file)
                .arg(self.torrent())
                .arg(self.encryption()),
            Other::Rqbit => rqbit(&mut command, self.port)
                .args(["download", "--overwrite", "-o"])
                .arg(file.parent().unwrap_or(file))
                .arg(self.torrent()),
            Other::IrohBlobs => command.arg("serve").arg(file).arg(self.folder.join("source-store")),
        };
        Ok(command)
    }

    fn sink(&self, n: usize, output: &Path, said: &str) -> anyhow::Result<Command> {
        let mut command = self.command(&self.programs.sink)?;
        let file = output.join("film.bin");
        match self.other {
            Other::RawTcp => {
                let hash = self.original.hash.to_hex();
                command.args(["as", "raw-sink", said]).arg(file).arg(hash.as_str())
            }
            Other::Nginx => command.args(["-sfo"]).arg(file).arg(format!("http://127.0.0.1:{}/film.bin", self.port)),
            Other::NginxTls => {
                command.args(["-skfo"]).arg(file).arg(format!("https://127.0.0.1:{}/film.bin", self.port))
            }
            Other::Libtorrent | Other::LibtorrentEncrypted => command
                .arg(self.folder.join("torrent_pair.py"))
                .args(["fetch", said])
                .arg(self.torrent())
                .arg(output)
                .arg(self.encryption()),
            Other::Rqbit => {
                let offset = 2 * (1 + u16::try_from(n).unwrap_or(0));
                rqbit(&mut command, self.port.wrapping_add(offset))
                    .args(["download", "-e", "--initial-peers"])
                    .arg(format!("127.0.0.1:{}", self.port))
                    .arg("-o")
                    .arg(output)
                    .arg(self.torrent())
            }
            Other::IrohBlobs => command.args(["fetch", said]).arg(output.join("store")).arg(file),
        };
        Ok(command)
    }

    fn encryption(&self) -> &'static str {
        if self.other == Other::LibtorrentEncrypted { "encrypted" } else { "plain" }
    }

    /// Waits until the source serves; what it said to the sinks.
    async fn ready(&self, source: &mut Child) -> anyhow::Result<String> {
        let begun = Instant::now();
        match self.other {
            Other::RawTcp | Other::Libtorrent | Other::LibtorrentEncrypted | Other::IrohBlobs => {
                let stdout = source.stdout.take().context("standard output is piped")?;
                let mut lines = BufReader::new(stdout).lines();
                let line = tokio::time::timeout(READY_WITHIN, lines.next_line()).await??;
                line.context("it ended without a word")
            }
            Other::Nginx | Other::NginxTls => loop {
                if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                    return Ok(String::new());
                }
                still_waiting(source, begun)?;
                tokio::time::sleep(ASK_EVERY).await;
            },
            Other::Rqbit => loop {
                let finished =
                    ask_rqbit(self.port.wrapping_add(1)).is_ok_and(|stats| stats.contains("\"finished\":true"));
                if finished {
                    return Ok(String::new());
                }
                still_waiting(source, begun)?;
                tokio::time::sleep(ASK_EVERY).await;
            },
        }
    }
}

fn still_waiting(source: &mut Child, begun: Instant) -> anyhow::Result<()> {
    if let Some(status) = source.try_wait()? {
        bail!("it ended with {status}");
    }
    ensure!(begun.elapsed() < READY_WITHIN, "it needed more than {} s", READY_WITHIN.as_secs());
    Ok(())
}

/// It speaks to peers on `port` and answers questions on the next.
fn rqbit(command: &mut Command, port: u16) -> &mut Command {
    command.args(["-v", "error", "--disable-dht", "--disable-dht-persistence", "--disable-lsd", "--disable-trackers"]);
    command.args(["--disable-upnp-port-forward", "--ipv4-only", "--listen-ip", "127.0.0.1", "--listen-port"]);
    command.arg(port.to_string()).arg("--http-api-listen-addr").arg(format!("127.0.0.1:{}", port.wrapping_add(1)))
}

fn ask_rqbit(port: u16) -> std::io::Result<String> {
    commands::get(&format!("127.0.0.1:{port}"), "/torrents/0/stats/v1")
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
