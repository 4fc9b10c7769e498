//! A stream that is read to its last byte.
//!
//! A broker that is killed leaves publishes in our socket, and an RST behind them. The client crate would write an
//! acknowledgement, fail, and drop what it has not read; the audit would then blame the broker for it. So a failed write is
//! passed over until the reads have come to the end, and the end is held back for one poll, in which the crate hands out
//! what it read right before.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct LastWord<S> {
    inner: S,
    write_failed: bool,
    end: Option<Result<(), io::ErrorKind>>,
}

impl<S> LastWord<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self {
            inner,
            write_failed: false,
            end: None,
        }
    }

    /// What a write came to, as the crate may know it.
    fn pass_over(&mut self, written: io::Result<usize>, offered: usize) -> io::Result<usize> {
        written.or_else(|_failed| {
            self.write_failed = true;
            Ok(offered)
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LastWord<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if let Some(end) = stream.end {
            return Poll::Ready(end.map_err(io::Error::from));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut stream.inner).poll_read(cx, buf));
        if read.is_ok() && buf.filled().len() > before {
            return Poll::Ready(Ok(()));
        }
        stream.end = Some(read.map_err(|error| error.kind()));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LastWord<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        if stream.write_failed {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut stream.inner).poll_write(cx, buf));
        Poll::Ready(stream.pass_over(written, buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.write_failed {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut stream.inner).poll_flush(cx));
        Poll::Ready(stream.pass_over(flushed.map(|()| 0), 0).map(drop))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_a_reset_peer_had_sent_is_read_although_writes_fail() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut theirs, _address) = listener.accept().await.unwrap();
        theirs.write_all(b"the last word").await.unwrap();
        SockRef::from(&theirs)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(theirs);
        let mut stream = LastWord::new(ours);
        for _ in 0..3 {
            stream.write_all(b"ack").await.unwrap();
        }
        let mut word = [0; 13];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"the last word");
        assert!(matches!(stream.read(&mut word).await, Ok(0) | Err(_)));
    }
}
