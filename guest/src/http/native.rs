//! Requests of a native build: a [`Transport`] answers them, in the order in which a host would.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::url::Url;
use super::{Error, Request, Response};

/// Answers the requests of a native test.
///
/// A closure is a transport, as in [`with`](super::testing::with). It gets only requests that pass
/// [`Request::check`].
pub trait Transport {
    /// Answers one request.
    ///
    /// # Errors
    /// The error that the workload gets.
    fn send(&self, request: &Request) -> Result<Response, Error>;
}

impl<F: Fn(&Request) -> Result<Response, Error>> Transport for F {
    fn send(&self, request: &Request) -> Result<Response, Error> {
        self(request)
    }
}

thread_local! {
    static TRANSPORT: RefCell<Option<Rc<dyn Transport>>> = const { RefCell::new(None) };
    /// The started requests that nobody has waited for, in order.
    static STARTED: RefCell<Vec<Weak<Call>>> = const { RefCell::new(Vec::new()) };
}

struct Call {
    request: Request,
    outcome: RefCell<Option<Result<Response, Error>>>,
}

/// A started request.
pub(super) struct Started(Rc<Call>);

pub(super) fn start(request: &Request, _: &Url<'_>) -> Result<Started, Error> {
    let call = Rc::new(Call { request: request.clone(), outcome: RefCell::new(None) });
    STARTED.with_borrow_mut(|started| started.push(Rc::downgrade(&call)));
    Ok(Started(call))
}

impl Started {
    /// Sends all started requests that still exist, and returns the outcome of this one.
    pub(super) fn wait(self) -> Result<Response, Error> {
        for call in STARTED.take().iter().filter_map(Weak::upgrade) {
            let outcome = send(&call.request);
            call.outcome.replace(Some(outcome));
        }
        // There is none after a panic of the transport in an earlier wait.
        self.0.outcome.take().unwrap_or_else(|| send(&self.0.request))
    }
}

fn send(request: &Request) -> Result<Response, Error> {
    match TRANSPORT.with_borrow(Clone::clone) {
        Some(transport) => transport.send(request),
        None => Err(Error::Other(
            "a native build has no network: answer the request with `lifeboat_guest::http::testing::with`".to_owned(),
        )),
    }
}

/// Sets the transport of this thread, and returns the one before.
fn replace(transport: Option<Rc<dyn Transport>>) -> Option<Rc<dyn Transport>> {
    TRANSPORT.replace(transport)
}

/// Calls `test` while `transport` answers the requests of this thread.
pub(super) fn with<R>(transport: impl Transport + 'static, test: impl FnOnce() -> R) -> R {
    /// Restores the transport before, after a panic too.
    struct Restore(Option<Rc<dyn Transport>>);

    impl Drop for Restore {
        fn drop(&mut self) {
            replace(self.0.take());
        }
    }

    let _restore = Restore(replace(Some(Rc::new(transport))));
    test()
}
