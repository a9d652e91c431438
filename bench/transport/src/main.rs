//! `transport-speed`: how fast a transport moves blocks and sums between two processes of this host, a JSON line a case.
//!
//! Starts itself again as the other end. Which cases there are is `cases`' affair; which peers they are compared with
//! is known to `compare.py` only.

mod cases;
mod ends;
mod orders;
mod timing;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use clap::Parser;
use futures::executor::block_on;
use mlxcel_transport::{Address, Kind, PeerId};

use ends::{End, Way};

/// Measures a transport on the loopback interface.
#[derive(Parser)]
struct Arguments {
    /// What moves the bytes.
    #[arg(long, value_enum, default_value_t = Way::Tcp)]
    transport: Way,
    /// Connections between the ends.
    #[arg(long, default_value_t = 2)]
    rails: u16,
    /// How long each case is measured.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Be the other end, which is spoken to in lines.
    #[arg(long, hide = true)]
    peer: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let transport = arguments.transport.start(arguments.rails)?;
    let card = format!("{} {}", number(transport.domain().id()), transport.addresses()[0].socket);
    if arguments.peer {
        println!("{card}");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        let (peer, _) = parse(&line, transport.kind())?;
        block_on(transport.domain().connected(peer, ends::soon()))?;
        return orders::obey(&End { transport, peer });
    }
    let mut other = start_peer(&arguments)?;
    writeln!(other.stdin.as_mut().context("its input is piped")?, "{card}")?;
    let mut line = String::new();
    BufReader::new(other.stdout.as_mut().context("its output is piped")?).read_line(&mut line)?;
    let (peer, address) = parse(&line, transport.kind())?;
    block_on(transport.connect(peer, &[address], ends::soon()))?;
    cases::run(&End { transport, peer }, arguments.seconds)?;
    other.wait()?;
    Ok(())
}

fn start_peer(arguments: &Arguments) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--peer", "--transport", arguments.transport.name(), "--rails"]);
    command.arg(arguments.rails.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the other end")
}

fn number(peer: PeerId) -> u128 {
    u128::from_be_bytes(peer.to_bytes())
}

fn parse(card: &str, kind: Kind) -> Result<(PeerId, Address)> {
    let (id, socket) = card.trim().split_once(' ').context("the other end did not start")?;
    let id = PeerId::from_bytes(id.parse::<u128>()?.to_be_bytes());
    Ok((id, Address { kind, socket: socket.parse::<SocketAddr>()? }))
}
