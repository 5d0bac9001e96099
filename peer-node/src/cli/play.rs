//! `peer-node play`: where a title plays, and a player if one is wanted.

use std::process::{Command, Stdio};

use clap::Args;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::pb::node::GetPlayUrlRequest;

use super::daemon_client::{Device, query};
use super::{Global, show};

/// Players, the best for seeking in a sealed title first.
const PLAYERS: [&str; 3] = ["mpv", "vlc", "xdg-open"];

#[derive(Args)]
pub(super) struct PlayArgs {
    /// Its name, the beginning of it, or its id
    title: String,
    /// Open it in mpv, VLC or whatever plays videos here
    #[arg(long)]
    open: bool,
    /// Only the beginning that is free
    #[arg(long, conflicts_with = "take_over")]
    preview: bool,
    /// If too many devices of the account play, stop the one that has been silent longest
    #[arg(long)]
    take_over: bool,
}

#[derive(Serialize)]
struct Answer {
    url: String,
    playable_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    go_on: Option<String>,
    opened_in: Option<&'static str>,
}

pub(super) async fn run(global: &Global, args: PlayArgs) -> anyhow::Result<Exit> {
    let mut device = Device::reach(global).await?;
    let request = GetPlayUrlRequest { title: query(&args.title), take_over: args.take_over, preview: args.preview };
    let answer = device.client.get_play_url(request).await.map_err(|status| device.failure(&status))?.into_inner();
    let opened_in = if args.open { Some(open(&answer.url)?) } else { None };
    let expiry = show::expiry(answer.expiry.as_ref());
    if let Some(moment) = expiry.as_deref().filter(|moment| !global.json && *moment != show::UNLIMITED) {
        // The address alone is on stdout, for `mpv "$(peer-node play TITLE)"`.
        eprintln!("begin before {moment}");
    }
    if args.preview && !global.json {
        let length = std::time::Duration::from_millis(answer.preview_ms);
        eprintln!("the first {}. {}", show::ago(length), answer.go_on);
    }
    let go_on = Some(answer.go_on).filter(|words| !words.is_empty());
    let answer = Answer { url: answer.url, playable_until: expiry, go_on, opened_in };
    global.print(&answer, || format!("{}\n", answer.url))
}

fn open(url: &str) -> Result<&'static str, Failure> {
    for player in PLAYERS {
        let started =
            Command::new(player).arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match started {
            Ok(_) => return Ok(player),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io(format!("cannot start {player}"), &error)),
        }
    }
    Err(Failure::new(Exit::NotFound, "E-PLAY-10", "no player was found")
        .why(format!("looked for {}", PLAYERS.join(", ")))
        .hint(format!("install mpv, or open {url} in any player or browser")))
}
