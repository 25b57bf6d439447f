//! Messages on a stream: four bytes of length, big-endian, then one value.

use std::io;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use overlay_proto::messages::Message;
use tokio::time::timeout;

use super::MESSAGE_TIMEOUT;

/// Reads the bytes of one message. The length is checked before anything is allocated, and what
/// follows it must come within [`MESSAGE_TIMEOUT`]; the first byte may take `first_within`.
pub(super) async fn read(
    stream: &mut (impl futures::AsyncRead + Unpin),
    len_max: usize,
    first_within: Duration,
) -> io::Result<Vec<u8>> {
    let mut first = [0; 1];
    timeout(first_within, stream.read_exact(&mut first)).await??;
    let message = async {
        let mut rest = [0; 3];
        stream.read_exact(&mut rest).await?;
        let ([a], [b, c, d]) = (first, rest);
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if len > len_max {
            let text = format!("a message of {len} bytes, above {len_max}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    };
    timeout(MESSAGE_TIMEOUT, message).await?
}

/// Writes one message; a peer that does not read it within [`MESSAGE_TIMEOUT`] fails it.
pub(super) async fn write(
    stream: &mut (impl futures::AsyncWrite + Unpin),
    message: &impl Message,
) -> io::Result<()> {
    write_bytes(stream, &message.encode()).await
}

/// Writes a message of no bytes: the gateway's says that the stream was taken, a seller's that he
/// is there.
pub(super) async fn write_empty(stream: &mut (impl futures::AsyncWrite + Unpin)) -> io::Result<()> {
    write_bytes(stream, &[]).await
}

async fn write_bytes(
    stream: &mut (impl futures::AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    let len = u32::try_from(message.len()).map_err(io::Error::other)?;
    let bytes = [&len.to_be_bytes(), message].concat();
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    timeout(MESSAGE_TIMEOUT, write).await?
}

/// Says goodbye in the stream's own way; a peer that does not take it is not waited for.
pub(super) async fn close(mut stream: Stream) {
    let _ = timeout(MESSAGE_TIMEOUT, stream.close()).await;
}

/// Returns an error for bytes that are no message.
pub(super) fn invalid(error: overlay_proto::messages::MessageError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
