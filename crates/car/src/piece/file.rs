//! Piece commitment of a file, computed by all threads of a budget.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::kernels::WINDOWS_AT_ONCE;
use crate::piece::assembler::PieceAssembler;
use crate::piece::merkle::zero_digest;
use crate::piece::{PieceError, PieceInfo, Scratch, WINDOW_LEVEL, WINDOW_RAW, piece_of};
use crate::progress::Progress;
use crate::readahead::{Buffer, expect_sequential, read_ahead};
use crate::sparse::{is_hole, is_sparse};
use crate::thread_budget::ThreadBudget;
use crate::units::{PayloadSize, len64};

/// Bytes that a thread reads and hashes at a time: as many windows as are hashed together.
const SPAN: usize = WINDOWS_AT_ONCE * WINDOW_RAW;
/// Bytes that the kernel reads ahead of the threads. Chosen: eight spans of the threads.
const AHEAD: u64 = 8 << 20;

/// The piece commitment of a file. Files that are not regular are read from their position to their end.
///
/// # Errors
///
/// [`PieceError`]. [`PieceError::Changed`] if the file's length differs at the end.
pub fn piece_of_file(
    budget: &ThreadBudget,
    file: &File,
    progress: &dyn Progress,
) -> Result<PieceInfo, PieceError> {
    let metadata = file.metadata().map_err(PieceError::Read)?;
    if !metadata.is_file() {
        return piece_of(file, progress);
    }
    let length = metadata.len();
    expect_sequential(file);
    let work = Work {
        file,
        length,
        sparse: is_sparse(&metadata),
        next: AtomicU64::new(0),
        piece: PieceAssembler::default(),
        failure: Mutex::new(None),
        progress,
    };
    let spans = length.div_ceil(len64(SPAN));
    budget.work(usize::try_from(spans).unwrap_or(usize::MAX), ThreadState::default, |thread| {
        work.step(thread).unwrap_or_else(|error| {
            work.failure().get_or_insert(error);
            // The other threads find no further span.
            work.next.store(length, Ordering::Relaxed);
            ControlFlow::Break(())
        })
    });
    if let Some(error) = work.failure().take() {
        return Err(error);
    }
    if file.metadata().map_err(PieceError::Read)?.len() != length {
        return Err(PieceError::Changed);
    }
    Ok(work.piece.finish(PayloadSize::new(length))?)
}

/// State that the threads of one file share.
struct Work<'a> {
    file: &'a File,
    length: u64,
    sparse: bool,
    /// Offset of the next span.
    next: AtomicU64,
    piece: PieceAssembler,
    failure: Mutex<Option<PieceError>>,
    progress: &'a dyn Progress,
}

/// Buffers that a thread keeps between spans.
#[derive(Default)]
struct ThreadState {
    buffer: Buffer,
    scratch: Scratch,
}

impl Work<'_> {
    fn step(&self, thread: &mut ThreadState) -> Result<ControlFlow<()>, PieceError> {
        if self.progress.is_cancelled() {
            return Err(PieceError::Cancelled);
        }
        let offset = self.next.fetch_add(len64(SPAN), Ordering::Relaxed);
        if offset >= self.length {
            return Ok(ControlFlow::Break(()));
        }
        let left = self.length - offset;
        let count = usize::try_from(left).map_or(SPAN, |left| left.min(SPAN));
        if self.sparse && count == SPAN && is_hole(self.file, offset, len64(SPAN)) {
            let window = offset / len64(WINDOW_RAW);
            self.piece.put(window, &[*zero_digest(WINDOW_LEVEL); WINDOWS_AT_ONCE]);
        } else {
            let ahead = left.saturating_sub(AHEAD).min(len64(SPAN));
            if let Some(ahead) = NonZeroU64::new(ahead) {
                read_ahead(self.file, offset + AHEAD, ahead);
            }
            thread.buffer.place(offset, SPAN);
            let bytes = &mut thread.buffer.bytes_mut()[..count];
            self.file.read_exact_at(bytes, offset).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    PieceError::Changed
                } else {
                    PieceError::Read(error)
                }
            })?;
            self.piece.feed(offset, bytes, &mut thread.scratch);
        }
        self.progress.advance(len64(count));
        Ok(ControlFlow::Continue(()))
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<PieceError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
