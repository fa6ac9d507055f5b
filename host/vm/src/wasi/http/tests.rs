use super::super::{CallContext, Inputs, Phase, WRITE_BYTES_MAX};
use super::error::{HeaderFailure, HttpError};
use super::fields::{FIELD_VALUE_BYTES, FIELDS_BYTES_MAX, FieldsError};
use super::incoming_response::FutureIncomingResponse;
use super::outgoing_body::OutgoingBody;
use super::outgoing_handler::Host as _;
use super::outgoing_request::OutgoingRequest;
use super::types::{
    ErrorCode, HeaderError, Host as _, HostFields, HostFutureIncomingResponse, HostFutureTrailers, HostIncomingBody,
    HostIncomingResponse, HostOutgoingBody, HostOutgoingRequest, HostOutgoingResponse, HostRequestOptions, Method,
    Scheme,
};
use super::*;
use crate::network::{HostTime, Landing, LiveNetwork, Network, RuntimeTime, Timeline, Wish};
use bytes::Bytes;
use futures::FutureExt;
use lifeboat_api::call::{CallError, CallRecord, CallResponse, CallResult, Field, NEVER_SEEN};
use lifeboat_api::clock::Timestamp;
use lifeboat_api::id::{Epoch, Sequence};
use lifeboat_api::transaction::Cause;
use lifeboat_disk::{Disk, READ_BYTES_MAX};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use wasmtime_wasi_io::bindings::wasi::io::poll::Host as _;
use wasmtime_wasi_io::bindings::wasi::io::streams::{HostInputStream, HostOutputStream};
use wasmtime_wasi_io::poll::DynPollable;
use wasmtime_wasi_io::streams::{DynOutputStream, StreamError};

mod calls;

const PHASES: [Phase; 4] = [Phase::Init, Phase::Execute, Phase::Query, Phase::Snapshot];

fn enter(wasi: &mut Wasi, phase: Phase, sequence: u64) {
    let context = CallContext {
        phase,
        sequence: Sequence(sequence),
        epoch: Epoch::default(),
        now: Timestamp(sequence * 1_000_000_000),
    };
    wasi.enter(context, Inputs::Replay, 1 << 20, Network::None);
}

/// A transaction with a live network, and the service's end of that.
struct Live {
    wasi: Wasi,
    wishes: mpsc::UnboundedReceiver<Wish>,
    timeline: Arc<Timeline>,
}

/// A context of a transaction that begins one second after 1970.
const TRANSACTION: CallContext =
    CallContext { phase: Phase::Execute, sequence: Sequence(1), epoch: Epoch([0; 16]), now: Timestamp(1_000_000_000) };

impl Live {
    /// Begins a transaction whose earlier attempts made the calls `known`.
    fn new(known: Vec<CallRecord>) -> Self {
        Self::at(known, Arc::new(RuntimeTime::default()))
    }

    fn at(known: Vec<CallRecord>, time: Arc<dyn HostTime>) -> Self {
        let (sender, wishes) = mpsc::unbounded_channel();
        let timeline = Arc::new(Timeline::new(time));
        let network = LiveNetwork { known: known.into(), wishes: sender, timeline: Arc::clone(&timeline) };
        let mut wasi = Wasi::new([7; 32], 100_000, Disk::new(0), 1 << 20);
        wasi.enter(TRANSACTION, Inputs::Live { deadline: Duration::from_secs(60) }, 1 << 20, Network::Live(network));
        Self { wasi, wishes, timeline }
    }

    /// Answers the next wish.
    fn land(&mut self, result: CallResult) {
        let wish = self.wishes.try_recv().expect("a wish");
        land(&self.timeline, wish, result);
    }
}

fn land(timeline: &Timeline, wish: Wish, result: CallResult) {
    let seen = timeline.read();
    // A guest may have dropped the response.
    let _ = wish.landing.send(Landing { seen, result });
}

/// Begins a replay of a transaction with these calls.
fn replayed(calls: &[CallRecord]) -> Wasi {
    let mut wasi = Wasi::new([7; 32], 100_000, Disk::new(0), 1 << 20);
    wasi.enter(TRANSACTION, Inputs::Replay, 1 << 20, Network::Recorded(calls.into()));
    wasi
}

/// A request to a host, handed over.
fn handled(wasi: &mut Wasi, path: &str) -> Resource<FutureIncomingResponse> {
    let request = request(wasi);
    wasi.set_authority(again(&request), Some("example.org".into())).expect("a request").expect("an authority");
    wasi.set_path_with_query(again(&request), Some(path.into())).expect("a request").expect("a path");
    wasi.handle(request, None).expect("there is a network")
}

/// What `get` answers: nothing yet, a status, a code, or that it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Got {
    Nothing,
    Status(u16),
    Failed(String),
    Taken,
}

fn get(wasi: &mut Wasi, future: &Resource<FutureIncomingResponse>) -> Got {
    match HostFutureIncomingResponse::get(wasi, again(future)).expect("a future") {
        None => Got::Nothing,
        Some(Err(())) => Got::Taken,
        Some(Ok(Err(code))) => Got::Failed(format!("{code:?}")),
        Some(Ok(Ok(response))) => {
            let status = HostIncomingResponse::status(wasi, again(&response)).expect("a response");
            HostIncomingResponse::drop(wasi, response).expect("a response");
            Got::Status(status)
        }
    }
}

fn whole(status: u16) -> CallResponse {
    CallResponse { status, headers: Vec::new(), body: Bytes::new(), trailers: Vec::new() }
}

fn in_transaction() -> Wasi {
    let mut wasi = Wasi::new([7; 32], 100_000, Disk::new(0), 1 << 20);
    enter(&mut wasi, Phase::Execute, 1);
    wasi
}

/// Another handle for the same entry of the table, as each call of a guest has.
fn again<T: 'static>(handle: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(handle.rep())
}

fn request(wasi: &mut Wasi) -> Resource<OutgoingRequest> {
    let headers = HostFields::new(wasi).expect("fields");
    HostOutgoingRequest::new(wasi, headers).expect("a request")
}

/// A request with a body and the stream that writes it.
fn written(wasi: &mut Wasi) -> (Resource<OutgoingRequest>, Resource<OutgoingBody>, Resource<DynOutputStream>) {
    let request = request(wasi);
    let body = HostOutgoingRequest::body(wasi, again(&request)).expect("a request").expect("the first time");
    let stream = HostOutgoingBody::write(wasi, again(&body)).expect("a body").expect("the first time");
    (request, body, stream)
}

fn write(wasi: &mut Wasi, stream: &Resource<DynOutputStream>, bytes: usize) -> StreamResult<()> {
    HostOutputStream::write(wasi, again(stream), vec![b'x'; bytes])
}

fn close(wasi: &mut Wasi, stream: Resource<DynOutputStream>) {
    HostOutputStream::drop(wasi, stream).now_or_never().expect("at once").expect("a stream");
}

/// The code that a guest finds in a failed stream.
fn stream_code<T: std::fmt::Debug>(wasi: &mut Wasi, result: StreamResult<T>) -> Option<ErrorCode> {
    let Err(StreamError::LastOperationFailed(error)) = result else { panic!("{result:?}") };
    let error = wasi.table.push(error).expect("room");
    wasi.http_error_code(error).expect("an error")
}

fn is_trap(error: &wasmtime::Error, words: &str) -> bool {
    matches!(error.downcast_ref(), Some(Stop(Cause::Trap { message })) if message.contains(words))
}

#[test]
fn without_a_network_every_request_is_denied_in_every_phase() {
    for phase in PHASES {
        let mut wasi = in_transaction();
        wasi.leave(true);
        enter(&mut wasi, phase, 2);
        for has_options in [false, true] {
            let request = request(&mut wasi);
            let uri = Some("example.org".to_owned());
            wasi.set_authority(again(&request), uri).expect("a request").expect("an authority");
            let options = has_options.then(|| HostRequestOptions::new(&mut wasi).expect("options"));
            let answer = wasi.handle(request, options);
            assert!(matches!(answer, Err(HttpError::Code(ErrorCode::HttpRequestDenied))), "{phase:?}: {answer:?}");
        }
        assert_eq!(wasi.http.held_bytes, 0);
        assert!(wasi.table.is_empty());
    }
}

#[test]
fn the_body_of_a_denied_request_is_closed() {
    let mut wasi = in_transaction();
    let (request, body, stream) = written(&mut wasi);
    write(&mut wasi, &stream, 10).expect("it has room");
    wasi.handle(request, None).expect_err("denied");
    assert!(matches!(write(&mut wasi, &stream, 10), Err(StreamError::Closed)));
    assert!(matches!(HostOutputStream::check_write(&mut wasi, again(&stream)), Err(StreamError::Closed)));
    assert!(matches!(HostOutputStream::flush(&mut wasi, again(&stream)), Err(StreamError::Closed)));
    close(&mut wasi, stream);
    HostOutgoingBody::finish(&mut wasi, body, None).expect("nothing is wrong with it");
    assert_eq!((wasi.http.held_bytes, wasi.http.bodies.len()), (0, 0));
}

#[test]
fn a_body_takes_its_bound_and_no_byte_more() {
    let mut wasi = in_transaction();
    let (_request, body, stream) = written(&mut wasi);
    for _ in 0..HTTP_BODY_BYTES_MAX / WRITE_BYTES_MAX {
        let permitted = HostOutputStream::check_write(&mut wasi, again(&stream)).expect("it has room");
        assert_eq!(permitted, WRITE_BYTES_MAX as u64);
        write(&mut wasi, &stream, WRITE_BYTES_MAX).expect("it has room");
    }
    let full = HostOutputStream::check_write(&mut wasi, again(&stream));
    let bound = HTTP_BODY_BYTES_MAX as u64;
    let code = stream_code(&mut wasi, full);
    assert!(matches!(code, Some(ErrorCode::HttpRequestBodySize(Some(size))) if size == bound), "{code:?}");
    let refused = write(&mut wasi, &stream, 1);
    let code = stream_code(&mut wasi, refused);
    assert!(matches!(code, Some(ErrorCode::HttpRequestBodySize(Some(size))) if size == bound + 1), "{code:?}");
    close(&mut wasi, stream);
    let cut = HostOutgoingBody::finish(&mut wasi, body, None);
    assert!(matches!(cut, Err(HttpError::Code(ErrorCode::HttpRequestBodySize(_)))), "{cut:?}");
}

#[test]
fn a_write_beyond_what_is_permitted_traps() {
    let mut wasi = in_transaction();
    let (_request, _body, stream) = written(&mut wasi);
    assert!(matches!(write(&mut wasi, &stream, WRITE_BYTES_MAX + 1), Err(StreamError::Trap(_))));
    // As for a file, the arguments of a call are the only bound of this one.
    let bytes = vec![1; 3 * WRITE_BYTES_MAX];
    let written = HostOutputStream::blocking_write_and_flush(&mut wasi, again(&stream), bytes).now_or_never();
    assert!(matches!(written, Some(Ok(()))), "{written:?}");
}

#[test]
fn fields_beyond_their_bound_trap() {
    let mut wasi = in_transaction();
    let fields = HostFields::new(&mut wasi).expect("fields");
    let values = vec![Vec::new(); FIELDS_BYTES_MAX / FIELD_VALUE_BYTES];
    let set = HostFields::set(&mut wasi, again(&fields), "a".into(), values);
    assert!(matches!(&set, Err(HeaderFailure::Trap(error)) if is_trap(error, "131072 bytes")), "{set:?}");
    let append = HostFields::append(&mut wasi, fields, "a".into(), vec![b'v'; FIELDS_BYTES_MAX]);
    assert!(matches!(&append, Err(HeaderFailure::Trap(error)) if is_trap(error, "131072 bytes")), "{append:?}");
    let list = HostFields::from_list(&mut wasi, vec![("a".into(), vec![b'v'; FIELDS_BYTES_MAX])]);
    assert!(matches!(&list, Err(HeaderFailure::Trap(error)) if is_trap(error, "131072 bytes")), "{list:?}");
}

#[test]
fn what_a_guest_holds_is_bounded() {
    let mut wasi = in_transaction();
    let large = vec![("a".to_owned(), vec![b'v'; 100_000])];
    let fields = HostFields::from_list(&mut wasi, large).expect("fields");
    let ended = (0..1_000).find_map(|count| Some((count, HostFields::clone(&mut wasi, again(&fields)).err()?)));
    let (count, error) = ended.expect("it ends");
    assert!(is_trap(&error, "more than 16777216 bytes"), "{error:?}");
    assert_eq!(count, HTTP_BYTES_MAX / (100_000 + 1 + 72 + HTTP_RESOURCE_BYTES) - 1);
    assert!(wasi.http.held_bytes <= HTTP_BYTES_MAX);
}

#[test]
fn resources_without_contents_are_bounded() {
    let mut wasi = in_transaction();
    let made = (0..100_000).take_while(|_| HostRequestOptions::new(&mut wasi).is_ok()).count();
    assert_eq!(made, HTTP_BYTES_MAX / HTTP_RESOURCE_BYTES);
    let mut wasi = in_transaction();
    let path = format!("/{}", "p".repeat(60_000));
    let made = (0..100_000)
        .take_while(|_| {
            let request = request(&mut wasi);
            wasi.set_path_with_query(request, Some(path.clone())).is_ok()
        })
        .count();
    assert!(made < HTTP_BYTES_MAX / path.len(), "{made}");
}

#[test]
fn a_body_without_room_fails_and_room_comes_back() {
    let mut wasi = in_transaction();
    let mut open: Vec<_> = (0..5).map(|_| written(&mut wasi)).collect();
    let (full, failed) = (0..1_000)
        .find_map(|index| {
            let failed = write(&mut wasi, &open[index % 5].2, WRITE_BYTES_MAX).err()?;
            Some((index % 5, failed))
        })
        .expect("it ends");
    let code = stream_code::<()>(&mut wasi, Err(failed));
    assert!(matches!(&code, Some(ErrorCode::InternalError(Some(text))) if text.contains("16777216")), "{code:?}");
    assert!(wasi.http.held_bytes <= HTTP_BYTES_MAX);
    let (request, body, stream) = open.remove(full);
    close(&mut wasi, stream);
    let cut = HostOutgoingBody::finish(&mut wasi, body, None);
    assert!(matches!(cut, Err(HttpError::Code(ErrorCode::HttpRequestBodySize(_)))), "{cut:?}");
    HostOutgoingRequest::drop(&mut wasi, request).expect("a request");
    write(&mut wasi, &open[0].2, WRITE_BYTES_MAX).expect("there is room again");
    for (request, body, stream) in open {
        HostOutgoingRequest::drop(&mut wasi, request).expect("a request");
        close(&mut wasi, stream);
        HostOutgoingBody::drop(&mut wasi, body).expect("a body");
    }
    assert_eq!((wasi.http.held_bytes, wasi.http.bodies.len()), (0, 0));
}

#[test]
fn a_stream_of_an_earlier_call_is_stale_and_data_is_not() {
    let mut wasi = in_transaction();
    let (request, body, stream) = written(&mut wasi);
    let other = self::request(&mut wasi);
    let unopened = HostOutgoingRequest::body(&mut wasi, again(&other)).expect("a request").expect("the first time");
    write(&mut wasi, &stream, 10).expect("it has room");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    let results = [
        write(&mut wasi, &stream, 1),
        HostOutputStream::check_write(&mut wasi, again(&stream)).map(drop),
        HostOutputStream::flush(&mut wasi, again(&stream)),
        HostOutputStream::write_zeroes(&mut wasi, again(&stream), 1),
    ];
    for result in results {
        let code = stream_code(&mut wasi, result);
        assert!(matches!(&code, Some(ErrorCode::InternalError(Some(text))) if text.contains("earlier")), "{code:?}");
    }
    assert!(HostOutgoingBody::drop(&mut wasi, again(&body)).is_err(), "its stream is open");
    close(&mut wasi, stream);
    HostOutgoingBody::finish(&mut wasi, body, None).expect("it is complete");
    let opened = HostOutgoingBody::write(&mut wasi, unopened).expect("a body").expect("the first time");
    write(&mut wasi, &opened, 1).expect("it belongs to this call");
    assert!(matches!(wasi.method(again(&request)), Ok(Method::Get)));
    assert!(matches!(wasi.handle(request, None), Err(HttpError::Code(ErrorCode::HttpRequestDenied))));
}

#[test]
fn bytes_and_values_are_charged() {
    let mut wasi = in_transaction();
    let charged = |wasi: &mut Wasi, call: &mut dyn FnMut(&mut Wasi)| {
        wasi.take_owed_fuel();
        call(wasi);
        wasi.take_owed_fuel()
    };
    let (_request, _body, stream) = written(&mut wasi);
    let fuel = charged(&mut wasi, &mut |wasi| write(wasi, &stream, 4_000).expect("it has room"));
    assert_eq!(fuel, 4_000 / BYTES_PER_FUEL);
    let fields = HostFields::new(&mut wasi).expect("fields");
    let name = "n".repeat(100);
    let value = vec![b'v'; 1_000];
    type Charged<'a> = (u64, &'a mut dyn FnMut(&mut Wasi));
    let calls: [Charged<'_>; 7] = [
        (1_150, &mut |wasi| HostFields::append(wasi, again(&fields), name.clone(), value.clone()).expect("valid")),
        (1_200, &mut |wasi| HostFields::set(wasi, again(&fields), name.clone(), vec![value.clone()]).expect("valid")),
        (1_200, &mut |wasi| drop(HostFields::get(wasi, again(&fields), name.clone()))),
        (150, &mut |wasi| drop(HostFields::has(wasi, again(&fields), name.clone()))),
        (1_222, &mut |wasi| drop(HostFields::entries(wasi, again(&fields)))),
        (1_222, &mut |wasi| drop(HostFields::clone(wasi, again(&fields)))),
        (150, &mut |wasi| HostFields::delete(wasi, again(&fields), name.clone()).expect("valid")),
    ];
    for (index, (fuel, call)) in calls.into_iter().enumerate() {
        assert_eq!(charged(&mut wasi, call), fuel, "{index}");
    }
    let request = request(&mut wasi);
    let fuel = charged(&mut wasi, &mut |wasi| {
        let _ = wasi.set_path_with_query(again(&request), Some("x".repeat(100_000)));
    });
    assert_eq!(fuel, 100_000, "also of a path that is not valid");
}

/// A response that has arrived, with two bytes more than one read takes.
fn response() -> (Wasi, Resource<FutureIncomingResponse>) {
    let field = |name: &str, value: &'static [u8]| Field { name: name.into(), value: Bytes::from_static(value) };
    let response = CallResponse {
        status: 201,
        // A guest may not set the second one, so it does not see it.
        headers: vec![field("content-type", b"text/plain"), field("transfer-encoding", b"chunked")],
        body: vec![b'r'; READ_BYTES_MAX + 2].into(),
        trailers: vec![field("digest", b"7")],
    };
    let mut live = Live::new(Vec::new());
    let future = handled(&mut live.wasi, "/");
    assert_eq!(get(&mut live.wasi, &future), Got::Nothing);
    live.land(Ok(Arc::new(response)));
    (live.wasi, future)
}

#[test]
fn a_response_is_read_once() {
    let (mut wasi, future) = response();
    let pollable = HostFutureIncomingResponse::subscribe(&mut wasi, again(&future)).expect("a future");
    let ready = wasi.poll(vec![again(&pollable)]).now_or_never().expect("at once");
    assert_eq!(ready.expect("it is ready"), [0]);
    super::super::io::poll::HostPollable::drop(&mut wasi, pollable).expect("a pollable");
    let response = HostFutureIncomingResponse::get(&mut wasi, again(&future))
        .expect("a future")
        .expect("ready")
        .expect("the first time")
        .expect("came");
    assert!(matches!(HostFutureIncomingResponse::get(&mut wasi, again(&future)), Ok(Some(Err(())))));
    HostFutureIncomingResponse::drop(&mut wasi, future).expect("a future");

    assert_eq!(HostIncomingResponse::status(&mut wasi, again(&response)).expect("a response"), 201);
    let headers = HostIncomingResponse::headers(&mut wasi, again(&response)).expect("a response");
    let entries = HostFields::entries(&mut wasi, again(&headers)).expect("fields");
    assert_eq!(entries, [("content-type".to_owned(), b"text/plain".to_vec())]);
    let append = HostFields::append(&mut wasi, again(&headers), "a".into(), Vec::new());
    assert!(matches!(append, Err(HeaderFailure::Code(HeaderError::Immutable))), "{append:?}");
    HostFields::drop(&mut wasi, headers).expect("fields");
    let body = wasi.consume(again(&response)).expect("a response").expect("the first time");
    assert!(matches!(wasi.consume(again(&response)), Ok(Err(()))));

    let stream = wasi.stream(again(&body)).expect("a body").expect("the first time");
    assert!(matches!(wasi.stream(again(&body)), Ok(Err(()))));
    assert!(HostIncomingBody::finish(&mut wasi, again(&body)).is_err(), "its stream is open");
    wasi.take_owed_fuel();
    let read = HostInputStream::read(&mut wasi, again(&stream), u64::MAX).expect("bytes");
    assert_eq!((read.len(), wasi.take_owed_fuel()), (READ_BYTES_MAX, READ_BYTES_MAX as u64 / BYTES_PER_FUEL));
    assert_eq!(HostInputStream::skip(&mut wasi, again(&stream), 1).expect("a byte"), 1);
    assert_eq!(HostInputStream::read(&mut wasi, again(&stream), 7).expect("the last byte"), b"r");
    assert!(matches!(HostInputStream::read(&mut wasi, again(&stream), 7), Err(StreamError::Closed)));
    HostInputStream::drop(&mut wasi, stream).now_or_never().expect("at once").expect("a stream");

    let trailers = HostIncomingBody::finish(&mut wasi, body).expect("a body");
    let pollable = HostFutureTrailers::subscribe(&mut wasi, again(&trailers)).expect("a future");
    super::super::io::poll::HostPollable::drop(&mut wasi, pollable).expect("a pollable");
    let taken = HostFutureTrailers::get(&mut wasi, again(&trailers)).expect("a future");
    let Some(Ok(Ok(Some(fields)))) = taken else { panic!("{taken:?}") };
    assert_eq!(HostFields::entries(&mut wasi, again(&fields)).expect("fields"), [("digest".into(), b"7".to_vec())]);
    assert!(matches!(
        HostFields::delete(&mut wasi, again(&fields), "digest".into()),
        Err(HeaderFailure::Code(HeaderError::Immutable))
    ));
    assert!(matches!(HostFutureTrailers::get(&mut wasi, again(&trailers)), Ok(Some(Err(())))));

    HostFields::drop(&mut wasi, fields).expect("fields");
    HostFutureTrailers::drop(&mut wasi, trailers).expect("a future");
    HostIncomingResponse::drop(&mut wasi, response).expect("a response");
    assert_eq!(wasi.http.held_bytes, 0);
    assert!(wasi.table.is_empty());
}

#[test]
fn a_response_that_failed_gives_its_code_once() {
    let mut live = Live::new(Vec::new());
    let future = handled(&mut live.wasi, "/");
    assert_eq!(get(&mut live.wasi, &future), Got::Nothing);
    live.land(Err(CallError::ConnectionTimeout { address: "192.0.2.1:443".into(), limit_ms: 2_000 }));
    assert_eq!(get(&mut live.wasi, &future), Got::Failed("ErrorCode::ConnectionTimeout".into()));
    assert_eq!(get(&mut live.wasi, &future), Got::Taken);
}

#[test]
fn the_stream_of_a_response_is_stale_in_the_next_call() {
    let (mut wasi, future) = response();
    let response = HostFutureIncomingResponse::get(&mut wasi, future)
        .expect("a future")
        .expect("ready")
        .expect("the first time")
        .expect("came");
    let body = wasi.consume(response).expect("a response").expect("the first time");
    let stream = wasi.stream(body).expect("a body").expect("the first time");
    wasi.leave(true);
    enter(&mut wasi, Phase::Execute, 2);
    let read = HostInputStream::read(&mut wasi, stream, 1);
    let code = stream_code(&mut wasi, read);
    assert!(matches!(&code, Some(ErrorCode::InternalError(Some(text))) if text.contains("earlier")), "{code:?}");
}

#[test]
fn the_body_of_a_response_has_errors_of_its_own() {
    let mut wasi = in_transaction();
    let headers = HostFields::from_list(&mut wasi, vec![("Content-Length".into(), b"3".to_vec())]).expect("valid");
    let response = HostOutgoingResponse::new(&mut wasi, headers).expect("a response");
    let body = HostOutgoingResponse::body(&mut wasi, response).expect("a response").expect("the first time");
    let finished = HostOutgoingBody::finish(&mut wasi, body, None);
    assert!(matches!(finished, Err(HttpError::Code(ErrorCode::HttpResponseBodySize(Some(0))))), "{finished:?}");
}

/// What wasmtime-wasi-http 48 answers to a name and a value that are appended to empty fields. `as_wasmtime` finds what
/// differs; this list says what it is without it.
#[test]
fn names_and_values_are_checked() {
    use HeaderError::{Forbidden, InvalidSyntax};
    let long = "n".repeat(65_536);
    type Case<'a> = (&'a str, &'a [u8], std::result::Result<&'a [u8], HeaderError>);
    let cases: [Case<'_>; 24] = [
        ("a", b"", Ok(b"")),
        ("X-Name_1", b"a, b", Ok(b"a, b")),
        ("!#$%&'*+-.^_`|~", b"1", Ok(b"1")),
        ("a", b" a\t ", Ok(b" a\t ")),
        ("a", b"\x80\xff", Ok(b"\x80\xff")),
        ("a", b"\n", Err(InvalidSyntax)),
        ("a", b"\r", Err(InvalidSyntax)),
        ("a", b"\0", Err(InvalidSyntax)),
        ("a", b"\x7f", Err(InvalidSyntax)),
        ("", b"", Err(InvalidSyntax)),
        ("a b", b"", Err(InvalidSyntax)),
        ("a:", b"", Err(InvalidSyntax)),
        ("\u{e9}", b"", Err(InvalidSyntax)),
        (&long, b"", Err(InvalidSyntax)),
        ("Content-Length", b"007", Ok(b"7")),
        ("content-length", b"18446744073709551615", Ok(b"18446744073709551615")),
        ("content-length", b"18446744073709551616", Err(InvalidSyntax)),
        ("content-length", b"+5", Err(InvalidSyntax)),
        ("content-length", b" 5", Err(InvalidSyntax)),
        ("content-length", b"", Err(InvalidSyntax)),
        ("Host", b"example.org", Err(Forbidden)),
        ("transfer-encoding", b"chunked", Err(Forbidden)),
        ("Proxy-Connection", b"close", Err(Forbidden)),
        ("http2-settings", b"\n", Err(Forbidden)),
    ];
    let mut wasi = in_transaction();
    for (name, value, expected) in cases {
        let fields = HostFields::new(&mut wasi).expect("fields");
        let appended = HostFields::append(&mut wasi, again(&fields), name.into(), value.to_vec());
        let entries = HostFields::entries(&mut wasi, fields).expect("fields");
        match (appended, expected) {
            (Ok(()), Ok(value)) => assert_eq!(entries, [(name.to_lowercase(), value.to_vec())]),
            (Err(HeaderFailure::Code(code)), Err(expected)) => {
                assert_eq!(std::mem::discriminant(&code), std::mem::discriminant(&expected), "{name}: {code:?}");
                assert!(entries.is_empty(), "{name}");
            }
            (appended, expected) => panic!("{name} {value:?}: {appended:?}, not {expected:?}"),
        }
    }
}

#[test]
fn content_length_has_one_value() {
    let mut wasi = in_transaction();
    let fields = HostFields::new(&mut wasi).expect("fields");
    let values = vec![b"5".to_vec(), b"5".to_vec()];
    let set = HostFields::set(&mut wasi, again(&fields), "content-length".into(), values);
    assert!(matches!(set, Err(HeaderFailure::Code(HeaderError::InvalidSyntax))), "{set:?}");
    HostFields::append(&mut wasi, again(&fields), "content-length".into(), b"5".to_vec()).expect("the first");
    let second = HostFields::append(&mut wasi, again(&fields), "Content-Length".into(), b"5".to_vec());
    assert!(matches!(second, Err(HeaderFailure::Code(HeaderError::InvalidSyntax))), "{second:?}");
    HostFields::set(&mut wasi, again(&fields), "content-length".into(), vec![b"6".to_vec()]).expect("it replaces");
    assert_eq!(HostFields::get(&mut wasi, fields, "content-length".into()).expect("fields"), [b"6"]);
}

#[test]
fn the_parts_of_a_request_are_checked() {
    let mut wasi = in_transaction();
    let request = request(&mut wasi);
    let long = format!("/{}", "p".repeat(65_535));
    for (path, is_valid) in [
        ("", true),
        ("/", true),
        ("/a?b=c", true),
        ("?q", true),
        ("/a#b", true),
        ("/\u{e9}", true),
        ("x", false),
        ("*", false),
        ("http://example.org/", false),
        ("/ a", false),
        ("/\u{7f}", false),
        (&long, false),
    ] {
        let set = wasi.set_path_with_query(again(&request), Some(path.into())).expect("a request");
        assert_eq!(set.is_ok(), is_valid, "{path:?}");
    }
    assert_eq!(wasi.path_with_query(again(&request)).expect("a request").as_deref(), Some("/\u{e9}"));
    for (method, is_valid) in [("GET", true), ("PURGE", true), ("", false), ("a b", false), ("\u{e9}", false)] {
        let set = wasi.set_method(again(&request), Method::Other(method.into())).expect("a request");
        assert_eq!(set.is_ok(), is_valid, "{method:?}");
    }
    assert!(matches!(wasi.method(again(&request)), Ok(Method::Other(method)) if method == "PURGE"));
    for (scheme, is_valid) in [("ftp", true), ("HTTP", true), ("", true), ("1x", true), ("a:b", false)] {
        let set = wasi.set_scheme(again(&request), Some(Scheme::Other(scheme.into()))).expect("a request");
        assert_eq!(set.is_ok(), is_valid, "{scheme:?}");
    }
    for (authority, is_valid) in [
        ("example.org", true),
        ("example.org:80", true),
        ("user@example.org", true),
        ("[::1]:80", true),
        ("", false),
        ("[::1", false),
        ("a b", false),
        ("a/b", false),
        ("a:b:c", false),
        ("\u{e9}", false),
    ] {
        let set = wasi.set_authority(again(&request), Some(authority.into())).expect("a request");
        assert_eq!(set.is_ok(), is_valid, "{authority:?}");
    }
    wasi.set_authority(again(&request), None).expect("a request").expect("none is allowed");
    assert_eq!(wasi.authority(request).expect("a request"), None);
}

#[test]
fn a_body_has_the_length_that_was_announced() {
    let mut wasi = in_transaction();
    for (lens, expected) in [(&[1, 2][..], Ok(())), (&[2][..], Err(2)), (&[2, 2][..], Err(4)), (&[][..], Err(0))] {
        let headers = HostFields::from_list(&mut wasi, vec![("content-length".into(), b"3".to_vec())]).expect("valid");
        let request = HostOutgoingRequest::new(&mut wasi, headers).expect("a request");
        let body = HostOutgoingRequest::body(&mut wasi, again(&request)).expect("a request").expect("the first time");
        assert!(matches!(HostOutgoingRequest::body(&mut wasi, again(&request)), Ok(Err(()))));
        let stream = HostOutgoingBody::write(&mut wasi, again(&body)).expect("a body").expect("the first time");
        assert!(matches!(HostOutgoingBody::write(&mut wasi, again(&body)), Ok(Err(()))));
        let mut written = 0;
        for &len in lens {
            let result = write(&mut wasi, &stream, len);
            written += len;
            if written > 3 {
                let code = stream_code(&mut wasi, result);
                assert!(matches!(code, Some(ErrorCode::HttpRequestBodySize(Some(4)))), "{code:?}");
            } else {
                result.expect("it has room");
            }
        }
        close(&mut wasi, stream);
        let trailers = HostFields::new(&mut wasi).expect("fields");
        match (HostOutgoingBody::finish(&mut wasi, body, Some(trailers)), expected) {
            (Ok(()), Ok(())) => {}
            (Err(HttpError::Code(ErrorCode::HttpRequestBodySize(Some(size)))), Err(expected)) => {
                assert_eq!(size, expected);
            }
            (finished, expected) => panic!("{lens:?}: {finished:?}, not {expected:?}"),
        }
        HostOutgoingRequest::drop(&mut wasi, request).expect("a request");
    }
    assert_eq!((wasi.http.held_bytes, wasi.http.bodies.len()), (0, 0));
}

#[test]
fn an_error_that_is_not_of_http_has_no_code() {
    let mut wasi = in_transaction();
    let error = wasi.table.push(wasmtime::Error::msg("of a file")).expect("room");
    assert!(matches!(wasi.http_error_code(error), Ok(None)));
}

/// Fields as a list: the last name takes the place of one that is removed.
#[derive(Debug, Default)]
struct Model(Vec<(String, Vec<Vec<u8>>)>);

impl Model {
    fn at(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(other, _)| *other == name.to_lowercase())
    }

    fn set(&mut self, name: &str, values: Vec<Vec<u8>>) {
        match self.at(name) {
            Some(at) if values.is_empty() => drop(self.0.swap_remove(at)),
            Some(at) => self.0[at].1 = values,
            None if values.is_empty() => {}
            None => self.0.push((name.to_lowercase(), values)),
        }
    }

    fn get(&self, name: &str) -> Vec<Vec<u8>> {
        self.at(name).map(|at| self.0[at].1.clone()).unwrap_or_default()
    }

    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let all = self.0.iter().flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
        all.collect()
    }

    fn bytes(&self) -> usize {
        let values = |values: &[Vec<u8>]| values.iter().map(|value| value.len() + 40).sum::<usize>();
        self.0.iter().map(|(name, all)| name.len() + 32 + values(all)).sum()
    }
}

#[derive(Debug, Clone)]
enum Change {
    Set(String, Vec<Vec<u8>>),
    Append(String, Vec<u8>),
    Delete(String),
    Copy,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let name = prop_oneof![4 => "[a-eA-E]", 1 => "x-[a-z]{60,70}", 1 => "[!#$%&'*+.^_`|~0-9]{1,3}"];
    let value = prop::collection::vec(prop_oneof![Just(9_u8), 32..127_u8, 128..=255_u8], 0..20);
    let change = prop_oneof![
        3 => (name.clone(), prop::collection::vec(value.clone(), 0..4)).prop_map(|(name, values)| Change::Set(name, values)),
        5 => (name.clone(), value).prop_map(|(name, value)| Change::Append(name, value)),
        3 => name.prop_map(Change::Delete),
        1 => Just(Change::Copy),
    ];
    prop::collection::vec(change, 0..80)
}

proptest! {
    #[test]
    fn fields_are_a_list_of_names_with_values(changes in changes()) {
        let (mut fields, mut model) = (Fields::new(), Model::default());
        for change in changes {
            match change {
                Change::Set(name, values) => {
                    prop_assert_eq!(fields.set(&name, values.clone()), Ok(()));
                    model.set(&name, values);
                    prop_assert_eq!(fields.get(&name), model.get(&name));
                    prop_assert_eq!(fields.has(&name), model.at(&name).is_some());
                }
                Change::Append(name, value) => {
                    prop_assert_eq!(fields.append(&name, value.clone()), Ok(()));
                    let mut values = model.get(&name);
                    values.push(value);
                    model.set(&name, values);
                }
                Change::Delete(name) => {
                    prop_assert_eq!(fields.delete(&name), Ok(()));
                    model.set(&name, Vec::new());
                }
                Change::Copy => {
                    let mut copy = fields.clone().into_immutable();
                    prop_assert_eq!(copy.delete("a"), Err(FieldsError::Immutable));
                    fields = copy.to_mutable();
                }
            }
            prop_assert_eq!(fields.entries(), model.entries());
            prop_assert_eq!((fields.bytes(), fields.len()), (model.bytes(), model.entries().len()));
        }
    }
}
