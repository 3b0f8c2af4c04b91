//! The body of an answer: a file read in blocks on threads that may block, one block ahead of the connection.
//!
//! ```text
//! disk ─► block that is read ahead ─► block at the connection ─► socket
//!          (a thread, while it reads)      (hyper asks for the next once it is nearly sent)
//! ```
//!
//! So a connection holds two blocks at most, and a client that reads slowly, or not at all, holds no thread.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future as _;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use crate::car_server::catalogue::{FileStamp, OfferedCar};

/// Bytes that are read at a time. Chosen: one system call for 8 ms of a connection at 1 Gbit/s.
pub(super) const BLOCK: usize = 1 << 20;
/// Buffers that are kept for further blocks. Beyond them memory goes back to the allocator.
const SPARE_BUFFERS_MAX: usize = 16;

/// What all bodies of a server share.
#[derive(Debug)]
pub(super) struct Disk {
    /// Reads that may block at a time: a disk that hangs holds so many threads and no more.
    reads: Arc<Semaphore>,
    spare: Mutex<Vec<Vec<u8>>>,
    throttle: Option<Throttle>,
}

impl Disk {
    pub(super) fn new(reads_max: usize, bytes_per_second: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            reads: Arc::new(Semaphore::new(reads_max)),
            spare: Mutex::default(),
            throttle: bytes_per_second.map(Throttle::new),
        })
    }

    /// Runs a call that may block on the disk.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = Arc::clone(&self.reads).acquire_owned().await.map_err(io::Error::other)?;
        let called = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            call()
        });
        called.await.map_err(io::Error::other)?
    }

    fn buffer(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    }

    /// Bytes of the next block: short ones where a throttle would let a whole one wait for long.
    fn block(&self) -> u64 {
        let whole = u64::try_from(BLOCK).unwrap_or(u64::MAX);
        self.throttle.as_ref().map_or(whole, |throttle| throttle.block().min(whole))
    }
}

/// A limit of bytes a second over all connections.
#[derive(Debug)]
struct Throttle {
    bytes_per_second: u64,
    /// When the bytes that were let through are over.
    free_at: Mutex<Instant>,
}

impl Throttle {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(Instant::now()) }
    }

    /// An eighth of a second, and at least 16 KiB.
    fn block(&self) -> u64 {
        (self.bytes_per_second / 8).max(16 << 10)
    }

    /// The moment at which these bytes may go out.
    fn reserve(&self, bytes: u64) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = Instant::now().max(*free_at);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free_at = begins + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        begins
    }
}

/// A buffer that goes back to its server when the last byte of it was sent.
struct Block {
    buffer: Vec<u8>,
    length: usize,
    disk: Arc<Disk>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.disk.give_back(std::mem::take(&mut self.buffer));
    }
}

/// An open file of the catalogue.
#[derive(Debug)]
pub(super) struct OpenCar {
    pub(super) car: Arc<OfferedCar>,
    file: File,
}

/// Why an offered file is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotServed {
    #[error("the file changed since it was checked")]
    Changed,
    #[error("the file cannot be read")]
    Unreadable(#[source] io::Error),
}

impl OpenCar {
    /// Opens a file and looks whether it is as it was checked.
    pub(super) fn open(car: Arc<OfferedCar>) -> Result<Self, NotServed> {
        let file = carferry_car::open_regular(&car.path).map_err(NotServed::Unreadable)?;
        let metadata = file.metadata().map_err(NotServed::Unreadable)?;
        if FileStamp::of(&metadata) != car.stamp || metadata.len() < car.size.get() {
            return Err(NotServed::Changed);
        }
        // The kernel reads further ahead. It is advice, and file systems may refuse it.
        let _advice = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self { car, file })
    }

    /// Reads a block, and looks once more whether the file is the one that was checked.
    fn read(&self, disk: &Arc<Disk>, offset: u64, length: usize) -> io::Result<Bytes> {
        let mut buffer = disk.buffer();
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        let mut block = Block { buffer, length, disk: Arc::clone(disk) };
        if let Some(bytes) = block.buffer.get_mut(..length) {
            self.file.read_exact_at(bytes, offset)?;
        }
        if FileStamp::of(&self.file.metadata()?) != self.car.stamp {
            return Err(io::Error::other(NotServed::Changed));
        }
        Ok(Bytes::from_owner(block))
    }
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// Bytes of an open file.
pub(super) struct CarBody {
    open: Arc<OpenCar>,
    disk: Arc<Disk>,
    /// Offset of the next block that is read.
    next: u64,
    /// Offset behind the last byte.
    end: u64,
    /// Bytes that the connection did not take yet.
    left: u64,
    /// The block that is read ahead.
    reading: Option<Reading>,
    ready: VecDeque<Bytes>,
    /// Waits for the throttle.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    activity: Arc<Activity>,
}

/// Counts what moves on a connection: bytes, blocks, and waits for the throttle.
#[derive(Debug, Default)]
pub(super) struct Activity(AtomicU64);

impl Activity {
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CarBody {
    /// The bytes from one offset up to another.
    pub(super) fn new(open: OpenCar, disk: Arc<Disk>, from: u64, end: u64, activity: Arc<Activity>) -> Self {
        Self {
            open: Arc::new(open),
            disk,
            next: from,
            end,
            left: end.saturating_sub(from),
            reading: None,
            ready: VecDeque::new(),
            pause: None,
            activity,
        }
    }

    /// Begins to read the next block, unless all are read.
    fn begin(&mut self) {
        if self.reading.is_some() || self.next >= self.end {
            return;
        }
        // Blocks end at multiples of their length, so that the disk is read by whole pages.
        let block = self.disk.block();
        let length = (block - self.next % block).min(self.end - self.next);
        let (open, disk, offset) = (Arc::clone(&self.open), Arc::clone(&self.disk), self.next);
        self.next += length;
        self.reading = Some(Box::pin(async move {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let for_reading = Arc::clone(&disk);
            disk.blocking(move || open.read(&for_reading, offset, length)).await
        }));
    }

    fn poll_block(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
            self.activity.note();
        }
        if let Some(block) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(block)));
        }
        self.begin();
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(reading.as_mut().poll(context));
        self.reading = None;
        self.activity.note();
        let block = match read {
            Ok(block) => block,
            Err(error) => {
                self.next = self.end;
                return Poll::Ready(Some(Err(error)));
            }
        };
        // The next one is read while this one is sent.
        self.begin();
        if let Some(ahead) = &mut self.reading
            && let Poll::Ready(read) = ahead.as_mut().poll(context)
        {
            self.reading = Some(Box::pin(std::future::ready(read)));
        }
        let Some(throttle) = &self.disk.throttle else { return Poll::Ready(Some(Ok(block))) };
        let bytes = u64::try_from(block.len()).unwrap_or(u64::MAX);
        self.pause = Some(Box::pin(sleep_until(throttle.reserve(bytes))));
        self.ready.push_back(block);
        self.poll_block(context)
    }
}

impl Body for CarBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = ready!(self.poll_block(context));
        if let Some(Ok(block)) = &polled {
            self.left = self.left.saturating_sub(u64::try_from(block.len()).unwrap_or(u64::MAX));
        }
        Poll::Ready(polled.map(|block| block.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for CarBody {
    fn drop(&mut self) {
        let (piece, path) = (self.open.car.piece_cid, self.open.car.path.display());
        if self.left == 0 {
            info!(%piece, %path, "sent");
        } else {
            debug!(%piece, %path, left = self.left, "the reader went away");
        }
    }
}

impl fmt::Debug for CarBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarBody").field("left", &self.left).finish_non_exhaustive()
    }
}
