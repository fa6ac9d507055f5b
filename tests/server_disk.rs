//! The virtual disk of a service over the HTTP API.

use crate::rig::guest_bytes;
use crate::site::{Answered, Site};
use lifeboat_api::access::Grant;
use lifeboat_api::http::{DiskListing, EntryType};
use reqwest::Method;

/// Starts a server with a service of documents. Returns the token of a user who may transact and observe.
async fn vault(folder: &tempfile::TempDir) -> (Site, String) {
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    site.deploy(&admin, "vault", "archive.wasm", "size=small").await;
    let ada = site.user(&admin, "ada", "vault", &[Grant::Transact, Grant::Observe]).await;
    (site, ada)
}

async fn put(site: &Site, token: &str, name: &str, text: &str) {
    let body = format!(r#"{{"put":{{"name":"{name}","text":"{text}"}}}}"#);
    let answered = site.transact(token, "vault", &format!("{name}-{}", text.len()), &body).await;
    assert_eq!(answered.status, 200, "{answered:?}");
}

async fn list(site: &Site, token: &str, query: &str) -> DiskListing {
    let answered = site.get(&format!("/v1/services/vault/disk{query}"), token).await;
    assert_eq!(answered.status, 200, "{answered:?}");
    serde_json::from_value(answered.json()).expect("a listing")
}

async fn read(site: &Site, token: &str, query: &str, version: Option<&str>) -> Answered {
    let mut request = site.client.request(Method::GET, site.url(&format!("/v1/services/vault/disk/file?{query}")));
    if let Some(version) = version {
        request = request.header("If-Match", version);
    }
    Answered::of(request.bearer_auth(token).send().await.expect("answered")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_service_are_listed_and_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (site, ada) = vault(&folder).await;
    assert_eq!(list(&site, &ada, "").await.entries, []);
    put(&site, &ada, "b", "the second").await;
    put(&site, &ada, "a", "the first").await;
    let root = list(&site, &ada, "").await;
    assert_eq!((root.sequence, root.kind, root.entries.len()), (2, EntryType::Directory, 1));
    let documents = list(&site, &ada, "?path=/documents").await;
    let shown: Vec<_> = documents.entries.iter().map(|entry| (&*entry.name, entry.kind, entry.bytes)).collect();
    assert_eq!(shown, [("a", EntryType::File, 9), ("b", EntryType::File, 10)]);
    let rest = list(&site, &ada, "?path=/documents&after=a").await;
    assert_eq!(rest.entries, documents.entries[1..]);
    let one = list(&site, &ada, "?path=documents/b").await;
    assert_eq!((one.kind, &one.entries[..]), (EntryType::File, &documents.entries[1..]));
    let whole = read(&site, &ada, "path=/documents/a", None).await;
    assert_eq!((whole.status, whole.text()), (200, "the first"));
    assert_eq!((whole.header("lifeboat-file-bytes"), whole.header("lifeboat-sequence")), ("9", "2"));
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(read(&site, &ada, "path=/documents/a&offset=4", None).await.text(), "first");
    assert_eq!(read(&site, &ada, "path=/documents/a&offset=9", None).await.text(), "");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_version_is_not_given() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (site, ada) = vault(&folder).await;
    put(&site, &ada, "a", "the first").await;
    let first = read(&site, &ada, "path=/documents/a", None).await;
    let version = first.header("etag").to_owned();
    put(&site, &ada, "b", "another file changes nothing").await;
    let same = read(&site, &ada, "path=/documents/a&offset=4", Some(&version)).await;
    assert_eq!((same.status, same.header("etag")), (200, &*version));
    put(&site, &ada, "a", "replaced").await;
    let other = read(&site, &ada, "path=/documents/a&offset=4", Some(&version)).await;
    assert_eq!((other.status, &*other.code()), (412, "file_changed"));
    assert!(other.text().contains("read it again from its beginning"), "{other:?}");
    assert_eq!(read(&site, &ada, "path=/documents/a", Some("*")).await.text(), "replaced");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_file_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (site, ada) = vault(&folder).await;
    put(&site, &ada, "a", "the first").await;
    for (query, status, code, words) in [
        ("path=/none", 404, "no_such_file", "there is no file or directory '/none'"),
        ("path=/documents", 400, "path", "'/documents' is a directory; list it, or name a file in it"),
        ("path=../etc/passwd", 400, "path", "operation not permitted"),
        ("path=/documents/../../x", 400, "path", "operation not permitted"),
        ("path=/documents/a/b", 400, "path", "not a directory"),
        ("path=%00", 400, "path", "invalid argument"),
        ("path=/documents/a&offset=18446744073709551615", 400, "query", "up to 2^62"),
        ("path=/documents/a&offset=-1", 400, "query", "the parameter 'offset' is '-1'"),
        ("path=%ff", 400, "query", "percent-encoded bytes that are not UTF-8"),
        ("offset=1", 400, "query", "the parameter 'path' is missing"),
        ("path=/documents/a&at=1", 400, "query", "there is no parameter 'at'"),
    ] {
        let refused = read(&site, &ada, query, None).await;
        assert_eq!((refused.status, &*refused.code()), (status, code), "{query}: {refused:?}");
        assert!(refused.text().contains(words), "{query}: {refused:?}");
    }
    let not_text = site.get("/v1/services/vault/disk?after=%ff", &ada).await;
    assert_eq!((not_text.status, &*not_text.code()), (400, "query"));
    put(&site, &ada, "b-c", "the second").await;
    assert_eq!(read(&site, &ada, "path=%2Fdocuments%2Fb%2Dc", None).await.text(), "the second");
    let missing = site.get("/v1/services/vault/disk?path=none", &ada).await;
    assert_eq!((missing.status, &*missing.code()), (404, "no_such_file"));
    let admin = site.log_in("admin").await;
    let no_service = site.get("/v1/services/none/disk", &admin).await;
    assert_eq!((no_service.status, &*no_service.code()), (404, "not_found"));
    site.stop().await;
}

/// Returns a tar archive with these entries.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, *content).expect("in memory");
    }
    archive.into_inner().expect("in memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_begins_with_the_files_of_its_archive() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let site = Site::start(folder.path(), "").await;
    let admin = site.log_in("admin").await;
    let workload = guest_bytes("archive.wasm");
    let path = "/v1/services/vault?size=small&archive=tar";
    for (entries, status, code, words) in [
        (&[("disk/a", &b"a"[..])][..], 422, "files_refused", "the archive has no entry 'workload'"),
        (&[("workload", &workload), ("a", b"a")], 422, "files_refused", "'a' in the archive is neither"),
        (&[("workload", b"no wasm")], 422, "workload_refused", "vault"),
        (&[("workload", &workload), ("disk/a", &vec![0; 70 << 20])], 422, "files_refused", "choose a larger size"),
    ] {
        let refused = site.put(path, &admin, archive(entries)).await;
        assert_eq!((refused.status, &*refused.code()), (status, code), "{refused:?}");
        assert!(refused.text().contains(words), "{refused:?}");
    }
    let cut = site.put(path, &admin, &b"no archive"[..]).await;
    assert_eq!((cut.status, &*cut.code()), (400, "not_an_archive"), "{cut:?}");
    let other = site.put("/v1/services/vault?archive=zip", &admin, Vec::new()).await;
    assert_eq!((other.status, &*other.code()), (400, "query"), "{other:?}");
    assert_eq!(site.get("/v1/services/vault", &admin).await.status, 404);
    let whole = archive(&[("workload", &workload), ("disk/site/index.html", b"<p>hello"), ("disk/empty", b"")]);
    let created = site.put(path, &admin, whole).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(read(&site, &admin, "path=/site/index.html", None).await.text(), "<p>hello");
    put(&site, &admin, "a", "the first").await;
    let names: Vec<String> = list(&site, &admin, "").await.entries.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["documents", "empty", "site"]);
    site.stop().await;
    let site = Site::start(folder.path(), "").await;
    assert_eq!(read(&site, &admin, "path=/site/index.html", None).await.text(), "<p>hello");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_service_shows_no_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (site, ada) = vault(&folder).await;
    put(&site, &ada, "a", "the first").await;
    let admin = site.log_in("admin").await;
    assert_eq!(site.post("/v1/services/vault/stop", &admin, "").await.status, 200);
    let stopped = site.get("/v1/services/vault/disk", &ada).await;
    assert_eq!((stopped.status, &*stopped.code()), (503, "stopped"));
    assert_eq!(site.post("/v1/services/vault/start", &admin, "").await.status, 200);
    assert_eq!(read(&site, &ada, "path=/documents/a", None).await.text(), "the first");
    site.stop().await;
}
