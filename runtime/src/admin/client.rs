//! The other end, for the command line.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::protocol::{Answer, Request, WAIT_S};
use super::socket;

/// For everything that is not waited for.
const DEADLINE: Duration = Duration::from_secs(10);
/// The gateway's answer comes a little after its wait is over.
const GRACE: Duration = Duration::from_secs(5);
/// The longest answer that is read: a thousand plugins with long reasons.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no gateway runs here: nobody listens at {0}; start it with `moorline run`")]
    NotRunning(PathBuf),
    /// The socket belongs to somebody else.
    #[error("{0} belongs to another user: run this as the user the gateway runs as, or as root")]
    NotAllowed(PathBuf),
    /// It was reached, but did not answer well.
    #[error("the gateway at {0} does not answer: {1}")]
    Broken(PathBuf, #[source] io::Error),
}

/// A connection to a running gateway.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the gateway with this state directory.
    ///
    /// # Errors
    /// When none runs, or it belongs to somebody else.
    pub fn connect(state_dir: &Path) -> Result<Self, ClientError> {
        let path = socket(state_dir);
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self {
                path,
                stream: BufReader::new(stream),
            }),
            Err(error) => {
                let kind = error.kind();
                let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
                Err(if nobody.contains(&kind) {
                    ClientError::NotRunning(path)
                } else if kind == io::ErrorKind::PermissionDenied {
                    ClientError::NotAllowed(path)
                } else {
                    ClientError::Broken(path, error)
                })
            }
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        self.exchange(request)
            .map_err(|error| ClientError::Broken(self.path.clone(), error))
    }

    fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        let wait = match request {
            Request::Swap { wait_s, .. } | Request::RollBack { wait_s, .. } => {
                Duration::from_secs(*wait_s).saturating_add(GRACE)
            }
            // A call of the guest may be under way.
            Request::RestoreState { .. } => Duration::from_secs(WAIT_S).saturating_add(GRACE),
            Request::List => DEADLINE,
        };
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_read_timeout(Some(wait))?;
        // Who turns us away answers before we ask, and hangs up.
        let asked = stream.write_all(&line);
        let mut answer = Vec::new();
        let mut limited = self.stream.by_ref().take(ANSWER_BYTES_MAX);
        match (limited.read_until(b'\n', &mut answer), asked) {
            (Ok(0) | Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
            (Ok(0), Ok(())) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (Ok(_), Ok(()) | Err(_)) => {}
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
