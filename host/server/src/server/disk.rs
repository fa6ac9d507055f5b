//! The virtual disk of a service: listings, and parts of files.

use super::input::{Parameters, parameters, wrong_parameter};
use super::problem::Problem;
use super::{Shared, lists, services};
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH};
use axum::http::{HeaderName, StatusCode};
use axum::response::Response;
use lifeboat_api::http::{FILE_BYTES_HEADER, SEQUENCE_HEADER};
use lifeboat_api::id::Sequence;
use lifeboat_api::text::Printable;
use lifeboat_disk::{Disk, Error, READ_BYTES_MAX};
use lifeboat_host::auth::Identity;
use lifeboat_host::budget::LIST_ENTRY_BYTES;
use lifeboat_host::files::{self, LISTING_BYTES_MAX, Part};
use lifeboat_vm::engine::joined;
use std::sync::Arc;
use std::time::Duration;

/// The longest time that a request for the disk of a service waits for the requests before it.
pub const DISK_WAIT_MAX: Duration = Duration::from_secs(30);

/// The largest offset in a file that a request may name: no file of a disk is as long.
const OFFSET_MAX: u64 = 1 << 62;

const SEQUENCE: HeaderName = HeaderName::from_static(SEQUENCE_HEADER);
const FILE_BYTES: HeaderName = HeaderName::from_static(FILE_BYTES_HEADER);

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    given: Parameters,
) -> Result<Response, Problem> {
    let mut given = parameters(given, &["path", "after"])?;
    let path = given.remove("path").unwrap_or_else(|| "/".into());
    let after = given.remove("after");
    // Room is taken once the copy is there: a busy service takes none of it.
    let (disk, sequence) = copy(&shared, &identity, &name).await?;
    let list = look(disk, move |disk| {
        files::list(disk, &path, after.as_deref(), sequence).map_err(|error| unusable(&path, error))
    });
    let audience = lists::audience(&shared, Some(&identity));
    lists::list(&shared.long_lists, &audience, LISTING_BYTES_MAX / LIST_ENTRY_BYTES, list).await
}

pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    given: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut given = parameters(given, &["path", "offset"])?;
    let path = given.remove("path").ok_or_else(|| {
        Problem::bad_request("query", "the parameter 'path' is missing; give the path of a file, such as path=/a.txt")
    })?;
    let offset = given.remove("offset").map_or(Ok(0), |text| {
        let offset = text.parse().ok().filter(|offset| *offset <= OFFSET_MAX);
        offset.ok_or_else(|| wrong_parameter("offset", &text, "a whole number of bytes up to 2^62, such as 1048576"))
    })?;
    let (disk, Sequence(sequence)) = copy(&shared, &identity, &name).await?;
    let mut found = None;
    let bytes = async {
        let of_path = path.clone();
        let read =
            look(disk, move |disk| files::read(disk, &of_path, offset).map_err(|error| unusable(&of_path, error)));
        let Part { bytes, file_bytes, version } = read.await?;
        found = Some((file_bytes, version));
        Ok(bytes)
    };
    let audience = lists::audience(&shared, Some(&identity));
    let entries = READ_BYTES_MAX / LIST_ENTRY_BYTES;
    let made = lists::made(&shared.long_lists, &audience, entries, "application/octet-stream", bytes).await;
    let mut response = made?;
    let (file_bytes, version) = found.ok_or_else(Problem::internal)?;
    let tag = HeaderValue::from_str(&format!("\"{version}\"")).map_err(|_| Problem::internal())?;
    if let Some(wanted) = headers.get(IF_MATCH).filter(|wanted| **wanted != "*" && **wanted != tag) {
        let (path, wanted) = (Printable(&path), String::from_utf8_lossy(wanted.as_bytes()).into_owned());
        let text = format!(
            "'{path}' has changed: its version is {} now, and not {}; read it again from its beginning",
            tag.to_str().unwrap_or_default(),
            Printable(&wanted)
        );
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "file_changed", text));
    }
    let headers = response.headers_mut();
    headers.insert(SEQUENCE, sequence.into());
    headers.insert(FILE_BYTES, file_bytes.into());
    headers.insert(ETAG, tag);
    Ok(response)
}

/// Returns a copy of the disk, and the last transaction that it shows.
async fn copy(shared: &Shared, identity: &Identity, name: &str) -> Result<(Disk, Sequence), Problem> {
    in_time(name, shared.host.disk_of(identity, name)).await?.map_err(services::not_operated)
}

/// Waits for a service that may be busy with earlier requests.
pub(super) async fn in_time<T>(service: &str, look: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(DISK_WAIT_MAX, look).await.map_err(|_| {
        let seconds = DISK_WAIT_MAX.as_secs();
        let text = format!(
            "service '{service}' was busy with earlier requests for {seconds} s, which is the limit; try again"
        );
        Problem::later("busy", text)
    })
}

/// Returns what `look` finds on a copy of a disk.
async fn look<T: Send + 'static>(
    mut disk: Disk,
    look: impl FnOnce(&mut Disk) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    // If the service has changed much meanwhile, the end of the copy takes time: it frees what only the copy had.
    joined(tokio::task::spawn_blocking(move || look(&mut disk))).await
}

/// Returns the problem of a path on the disk of a service.
fn unusable(path: &str, error: Error) -> Problem {
    let path = Printable(path);
    match error {
        Error::NoEntry => Problem::new(
            StatusCode::NOT_FOUND,
            "no_such_file",
            format!("there is no file or directory '{path}', or a link there leads to none; list its directory"),
        ),
        Error::IsDirectory => {
            Problem::bad_request("path", format!("'{path}' is a directory; list it, or name a file in it"))
        }
        error => Problem::bad_request("path", format!("'{path}' cannot be read: {error}; name another path")),
    }
}
