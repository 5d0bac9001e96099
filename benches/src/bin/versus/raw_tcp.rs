//! The floor under everybody: a file through one TCP connection, hashed and written as it comes. Nothing is encrypted.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;

use daemon::Exit;

/// Read and written at a time, as our chunks are.
const PIECE_BYTES: usize = 1 << 20;

/// `raw-source FILE`: prints its port, then sends the file to whoever connects.
pub(super) fn source(args: &[OsString]) -> ExitCode {
    ended(|| {
        let [file] = args else { return Err(io::Error::other("one argument: FILE")) };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        println!("{}", listener.local_addr()?.port());
        for stream in listener.incoming() {
            let (stream, file) = (stream?, File::open(file)?);
            std::thread::spawn(move || send(file, stream));
        }
        Ok(())
    })
}

/// A sink that has gone away is its own matter.
fn send(mut file: File, mut stream: TcpStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            n => stream.write_all(&piece[..n])?,
        }
    }
}

/// `raw-sink PORT FILE HASH`: fetches, and fails unless what came has this BLAKE3.
pub(super) fn sink(args: &[OsString]) -> ExitCode {
    ended(|| {
        let [port, path, hash] = args else { return Err(io::Error::other("three arguments: PORT FILE HASH")) };
        let port = port.to_str().and_then(|port| port.parse().ok());
        let port: u16 = port.ok_or_else(|| io::Error::other("PORT is not a port"))?;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let mut file = File::create(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let n = fill(&mut stream, &mut piece)?;
            hasher.update(&piece[..n]);
            file.write_all(&piece[..n])?;
            if n < PIECE_BYTES {
                break;
            }
        }
        match hasher.finalize().to_hex().as_str() == hash {
            true => Ok(()),
            false => Err(io::Error::other("what came is not what was sent")),
        }
    })
}

/// As much as fits, less only at the end.
fn fill(stream: &mut TcpStream, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match stream.read(&mut piece[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

fn ended(work: impl FnOnce() -> io::Result<()>) -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(Exit::Failed.number())
        }
    }
}
