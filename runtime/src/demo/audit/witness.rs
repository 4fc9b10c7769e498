//! The witness's desk: a source of readings connects here and says, after each batch the gateway accepted, up to which
//! serial it got. One line each: `device serial`.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use super::Input;

pub(super) async fn start(inputs: mpsc::Sender<Input>) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    Ok((address, tokio::spawn(listen(listener, inputs))))
}

async fn listen(listener: TcpListener, inputs: mpsc::Sender<Input>) {
    let mut desks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    desks.spawn(listen_to(stream, inputs.clone()));
                }
                Err(error) => warn!(%error, "audit: a witness could not be heard"),
            },
            Some(_gone) = desks.join_next() => {}
        }
    }
}

async fn listen_to(stream: TcpStream, inputs: mpsc::Sender<Input>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        match stream.read_line(&mut line).await {
            Ok(0) => return,
            Ok(_bytes) => {}
            Err(error) => {
                debug!(%error, "audit: a witness is gone");
                return;
            }
        }
        // The last line of a witness that was killed may be cut off inside the number.
        let Some(line) = line.strip_suffix('\n') else {
            return;
        };
        match parse(line) {
            Some((device, serial)) => {
                let input = Input::Witnessed {
                    device: device.to_owned(),
                    serial,
                };
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
            None => warn!(
                line,
                "audit: a witness said something else than `device serial`"
            ),
        }
    }
}

fn parse(line: &str) -> Option<(&str, u64)> {
    let (device, serial) = line.rsplit_once(' ')?;
    Some((device, serial.parse().ok()?))
}
