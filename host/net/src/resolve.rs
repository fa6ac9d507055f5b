//! Names to addresses.

use futures::future::BoxFuture;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// The longest time that a name may take to be resolved, including the time until a thread is free for it.
pub const RESOLVE_MAX: Duration = Duration::from_secs(5);

/// The most names that a [`SystemResolver`] resolves at once: each of them takes a thread until the system answers.
pub const RESOLVERS_MAX: usize = 16;

/// A source of addresses.
pub trait Resolver: Send + Sync {
    /// Returns the addresses of a DNS name: A-labels in lower case, without a trailing dot. Literal addresses are
    /// never asked for.
    ///
    /// The caller limits the time to [`RESOLVE_MAX`], and drops the future then.
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system, `getaddrinfo`: it reads `/etc/hosts` and `/etc/resolv.conf`.
///
/// A look-up cannot be interrupted. One that nobody waits for any more keeps its thread until it ends, and counts
/// towards [`RESOLVERS_MAX`], so that a resolver that is stuck takes no more threads than that. The threads are not
/// those of a runtime, so that no runtime waits for them when it is shut down.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    threads: Arc<Semaphore>,
    look_up: fn(&str) -> io::Result<Vec<IpAddr>>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { threads: Arc::new(Semaphore::new(RESOLVERS_MAX)), look_up: getaddrinfo }
    }
}

fn getaddrinfo(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

impl Resolver for SystemResolver {
    fn resolve(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let Self { threads, look_up } = self.clone();
        let host = host.to_owned();
        Box::pin(async move {
            let permit = threads.acquire_owned().await.expect("it is never closed");
            let (sender, receiver) = oneshot::channel();
            thread::Builder::new().name("resolve".into()).spawn(move || {
                let result = look_up(&host);
                drop(permit);
                // The caller may have stopped waiting.
                let _ = sender.send(result);
            })?;
            receiver.await.unwrap_or_else(|_| Err(io::Error::other("the thread of the look-up panicked")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    #[tokio::test]
    async fn the_system_resolves_localhost_to_loopback() {
        let addresses = SystemResolver::default().resolve("localhost").await.expect("every system has it");
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    }

    /// A look-up reports its start here, and ends when it can lock [`HELD`].
    static STARTED: Mutex<Option<Sender<()>>> = Mutex::new(None);
    static HELD: Mutex<()> = Mutex::new(());

    fn stuck(_: &str) -> io::Result<Vec<IpAddr>> {
        STARTED.lock().expect("not poisoned").as_ref().expect("set by the test").send(()).expect("the test waits");
        drop(HELD.lock().expect("not poisoned"));
        Ok(vec![IpAddr::from([1, 1, 1, 1])])
    }

    #[tokio::test]
    async fn look_ups_that_are_stuck_take_a_bounded_number_of_threads() {
        let (started, starts) = channel();
        *STARTED.lock().expect("not poisoned") = Some(started);
        let held = HELD.lock().expect("not poisoned");
        let resolver = SystemResolver { threads: Arc::new(Semaphore::new(RESOLVERS_MAX)), look_up: stuck };
        for _ in 0..RESOLVERS_MAX {
            // Nobody waits for them: the future is dropped at once.
            assert!(resolver.resolve("stuck.example.org").now_or_never().is_none());
        }
        (0..RESOLVERS_MAX).for_each(|_| starts.recv().expect("a thread starts"));
        assert_eq!(resolver.threads.available_permits(), 0);
        let mut next = resolver.resolve("next.example.org");
        assert!((&mut next).now_or_never().is_none());
        assert!(starts.try_recv().is_err());
        drop(held);
        assert_eq!(next.await.expect("a thread is free").len(), 1);
    }
}
