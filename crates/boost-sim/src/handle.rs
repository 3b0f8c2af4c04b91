//! Handles a call: log, counters, faults, work.

use std::sync::Arc;

use serde_json::Value;

use crate::calls::Outcome;
use crate::counters::Work;
use crate::faults::{Endpoint, FaultKind};
use crate::inner::Inner;
use crate::methods;
use crate::reply::{Answer, CallError, Handled};

/// Records the outcome of a call, also if its task is dropped because the caller went away.
struct Record<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Record<'_> {
    fn end(&self, outcome: Outcome) {
        self.inner.with(|world| world.log.end(self.number, outcome));
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}

/// Logs a call, injects its fault, and does its work.
pub(crate) async fn handle(
    inner: &Arc<Inner>,
    endpoint: Endpoint,
    method: &str,
    params: &Value,
    work: impl FnOnce() -> Answer,
) -> Handled {
    let _counted = (method == methods::IMPORT).then(|| inner.count(Work::ImportCall));
    let (number, fault) = inner.with(|world| {
        let number = world.log.begin(endpoint, method, params);
        (number, world.faults.take(endpoint, method, &params.to_string()))
    });
    let record = Record { inner, number };
    match &fault {
        Some(FaultKind::Delay(delay)) => tokio::time::sleep(*delay).await,
        Some(FaultKind::DropBefore) => {
            record.end(Outcome::Withheld);
            return Handled::Close;
        }
        Some(FaultKind::Unauthorized) => {
            record.end(Outcome::Withheld);
            return Handled::Unauthorized;
        }
        Some(FaultKind::Hang) => {
            record.end(Outcome::Withheld);
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    let mut answer = match &fault {
        Some(FaultKind::Http500) => Err(CallError::protocol(0, "fatal error: injected")),
        Some(FaultKind::ApplicationError(text)) => Err(CallError::application(text.clone())),
        _ => work(),
    };
    match fault {
        Some(FaultKind::DelayAnswer(delay)) => tokio::time::sleep(delay).await,
        Some(FaultKind::ApplicationErrorAfterWork(text)) => answer = Err(CallError::application(text)),
        Some(FaultKind::DropAfterWork) => {
            record.end(Outcome::Withheld);
            return Handled::Close;
        }
        Some(FaultKind::HangAfterWork) => {
            record.end(Outcome::Withheld);
            std::future::pending::<()>().await;
        }
        Some(FaultKind::CutAnswer) => {
            record.end(Outcome::Withheld);
            return Handled::CutAnswer(answer);
        }
        _ => {}
    }
    record.end(outcome(&answer));
    Handled::Answer(answer)
}

fn outcome(answer: &Answer) -> Outcome {
    match answer {
        Err(error) => Outcome::Error { code: error.code, message: error.message.clone() },
        Ok(value) => {
            // GraphQL answers errors as values; no other answer has this shape.
            let message = value.pointer("/errors/0/message").and_then(Value::as_str);
            message
                .map_or(Outcome::Answered, |message| Outcome::Error { code: 0, message: message.to_owned() })
        }
    }
}
