//! Send deadlines: an HTTP request of a lease's holder breaks off where it would be sent after the lease may
//! have ended.
//!
//! An agent may be stopped (SIGSTOP, a paused virtual machine, a starved processor) between its last look at
//! the lease and the send, and may go on after another agent has taken the lease. Lotus knows no fencing
//! numbers. So the body of such a request reads the clock when the HTTP client asks for its bytes,
//! microseconds before they are written. After the deadline it fails instead, and the node gets no whole
//! request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use jsonrpsee::http_client::{HttpBody, HttpRequest};
use rustix::time::{ClockId, clock_gettime};

tokio::task_local! {
    static SEND_DEADLINE: BootInstant;
}

/// A time of this machine's boot clock, which goes on while the machine sleeps or is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The present time.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Self(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }

    /// This time plus a duration.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        Self::now() > self
    }
}

/// Runs calls that must not be sent after the deadline.
pub(crate) async fn with_send_deadline<F: Future>(deadline: BootInstant, calls: F) -> F::Output {
    SEND_DEADLINE.scope(deadline, calls).await
}

/// The request with the send deadline of its task, if the task has one.
pub(crate) fn limited(request: HttpRequest) -> HttpRequest {
    match SEND_DEADLINE.try_with(|deadline| *deadline) {
        Ok(deadline) => request.map(|body| HttpBody::new(DeadlineBody { body, deadline })),
        Err(_unlimited) => request,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not sent: its time had passed when it was on its way")]
struct TooLate;

struct DeadlineBody {
    body: HttpBody,
    deadline: BootInstant,
}

impl Body for DeadlineBody {
    type Data = <HttpBody as Body>::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.deadline.has_passed() {
            return Poll::Ready(Some(Err(TooLate.into())));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn bytes_before(deadline: BootInstant) -> Option<Vec<u8>> {
        with_send_deadline(deadline, async {
            let request = limited(HttpRequest::new(HttpBody::from("{}")));
            request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec())
        })
        .await
    }

    #[tokio::test]
    async fn a_body_gives_no_bytes_after_its_time() {
        let now = BootInstant::now();
        assert_eq!(bytes_before(now.plus(Duration::from_secs(60))).await.as_deref(), Some(&b"{}"[..]));
        assert_eq!(bytes_before(now).await, None);
        let unlimited = limited(HttpRequest::new(HttpBody::from("{}"))).into_body().collect().await.unwrap();
        assert_eq!(unlimited.to_bytes(), "{}");
    }
}
