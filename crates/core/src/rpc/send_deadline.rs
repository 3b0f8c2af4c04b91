//! A call that must not go out late: its time is looked at when the bytes are on their way to the socket.
//!
//! Whoever calls under a lease may be stopped (SIGSTOP, a paused virtual machine, a starved processor)
//! between the last look at the lease and the send, and wake up when the lease is another's. Lotus knows no
//! fencing numbers. So the body of such a request looks at the clock when the HTTP client asks it for its
//! bytes, microseconds before they are written; too late, it breaks off instead, and the node gets no whole
//! request.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use jsonrpsee::http_client::{HttpBody, HttpRequest};
use rustix::time::{ClockId, clock_gettime};

tokio::task_local! {
    static SEND_BEFORE: BootInstant;
}

/// A moment of this machine's time since it started, sleep and pauses included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// This one.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Self(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }

    /// So much later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        Self::now() > self
    }
}

/// Runs calls that must not be sent after this moment.
pub(crate) async fn sent_before<F: Future>(moment: BootInstant, calls: F) -> F::Output {
    SEND_BEFORE.scope(moment, calls).await
}

/// The request, with the limit of the task it belongs to, if it has one.
pub(crate) fn fenced(request: HttpRequest) -> HttpRequest {
    match SEND_BEFORE.try_with(|moment| *moment) {
        Ok(moment) => request.map(|body| HttpBody::new(FencedBody { body, moment })),
        Err(_unlimited) => request,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not sent: its time had passed when it was on its way")]
struct TooLate;

struct FencedBody {
    body: HttpBody,
    moment: BootInstant,
}

impl Body for FencedBody {
    type Data = <HttpBody as Body>::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.moment.has_passed() {
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

    async fn bytes_before(moment: BootInstant) -> Option<Vec<u8>> {
        sent_before(moment, async {
            let request = fenced(HttpRequest::new(HttpBody::from("{}")));
            request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec())
        })
        .await
    }

    #[tokio::test]
    async fn a_body_gives_no_bytes_after_its_time() {
        let now = BootInstant::now();
        assert_eq!(bytes_before(now.plus(Duration::from_secs(60))).await.as_deref(), Some(&b"{}"[..]));
        assert_eq!(bytes_before(now).await, None);
        let unlimited = fenced(HttpRequest::new(HttpBody::from("{}"))).into_body().collect().await.unwrap();
        assert_eq!(unlimited.to_bytes(), "{}");
    }
}
