//! What the tasks of a deal have in common: how often they are tried, and the piece CID of bytes.

use carferry_car::{NoProgress, PaddedPieceSize, piece_of};

/// Tries of a task.
pub(crate) const FAILURES_MAX: u32 = 3;

/// The piece CID of these bytes, filled up to the deal's piece.
pub(crate) async fn piece_cid(bytes: Vec<u8>, padded: u64) -> Result<String, String> {
    let padded = PaddedPieceSize::new(padded).map_err(|error| error.to_string())?;
    let computing = tokio::task::spawn_blocking(move || piece_of(&bytes[..], &NoProgress));
    let piece = computing.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if piece.padded_piece_size > padded {
        return Err(format!("{} bytes are more than the piece {padded} holds", piece.payload_size));
    }
    Ok(piece.piece_cid_in(padded).to_string())
}
