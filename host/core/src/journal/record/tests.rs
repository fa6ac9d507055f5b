use super::*;
use lifeboat_api::call::CallResult;
use proptest::prelude::*;

fn service() -> Name {
    Name::new("bank").expect("a name")
}

fn answers() -> impl Strategy<Value = Answer> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Answer::Ok(bytes.into())),
        ".{0,40}".prop_map(Answer::Refused),
        any::<u64>().prop_map(|limit_fuel| Answer::Failed(Cause::Fuel { limit_fuel })),
        ".{0,40}".prop_map(|message| Answer::Failed(Cause::Trap { message })),
        (".{0,40}", ".{0,40}").prop_map(|(summary, details)| Answer::Failed(Cause::Explained { summary, details })),
        any::<u32>().prop_map(|ms| Answer::Failed(Cause::Deadline { deadline: Duration::from_millis(ms.into()) })),
        any::<u64>().prop_map(|limit_bytes| Answer::Failed(Cause::ArgumentBytes { limit_bytes })),
        (any::<[u64; 3]>(), ".{0,40}").prop_map(|([wanted_bytes, limit_bytes, size_bytes], size)| {
            let level = Resource::Memory;
            Answer::Failed(Cause::NoRoom { level, wanted_bytes, limit_bytes, size, size_bytes })
        }),
    ]
}

#[test]
fn causes_have_the_numbers_of_the_list_of_the_format() {
    let [wanted_bytes, limit_bytes] = [5, 4];
    let causes = [
        (Cause::Fuel { limit_fuel: 4 }, &[0, 4][..]),
        (Cause::Memory { wanted_bytes, limit_bytes }, &[1, 5, 4]),
        (Cause::TableElements { wanted: 5, limit: 4 }, &[2, 5, 4]),
        (Cause::Deadline { deadline: Duration::from_nanos(1_000_000_007) }, &[3, 1, 7]),
        (Cause::ReplyBytes { limit_bytes }, &[4, 4]),
        (Cause::Exit { status: "ok".into() }, &[5, 2, b'o', b'k']),
        (Cause::Trap { message: "no".into() }, &[6, 2, b'n', b'o']),
        (Cause::Disk { wanted_bytes, limit_bytes }, &[7, 5, 4]),
        (Cause::ArgumentBytes { limit_bytes }, &[8, 4]),
        (
            Cause::NoRoom { level: Resource::Disk, wanted_bytes, limit_bytes, size: "l".into(), size_bytes: 9 },
            &[9, 2, 5, 4, 1, b'l', 9],
        ),
        (Cause::Network { limit_calls: 5, limit_bytes }, &[10, 5, 4]),
        (Cause::Interrupted, &[11]),
        (Cause::Explained { summary: "no".into(), details: "in f".into() }, b"\x0c\x02no\x04in f"),
    ];
    for (cause, bytes) in causes {
        assert_eq!(postcard::to_stdvec(&cause).expect("it has a form"), bytes, "{cause}");
        assert_eq!(postcard::from_bytes::<Cause>(bytes).expect("it is read"), cause);
    }
}

#[test]
fn errors_of_calls_have_the_numbers_of_the_list_of_the_format() {
    let text = || "a".to_owned();
    let errors = [
        (CallError::Denied { target: text() }, &[0, 1, b'a'][..]),
        (CallError::InvalidRequest { reason: text() }, &[1, 1, b'a']),
        (CallError::DnsTimeout { host: text(), limit_ms: 5 }, &[2, 1, b'a', 5]),
        (CallError::Dns { host: text(), reason: text() }, &[3, 1, b'a', 1, b'a']),
        (CallError::AddressDenied { host: text(), address: text() }, &[4, 1, b'a', 1, b'a']),
        (CallError::ConnectionRefused { address: text() }, &[5, 1, b'a']),
        (CallError::ConnectionTimeout { address: text(), limit_ms: 5 }, &[6, 1, b'a', 5]),
        (CallError::ConnectionTerminated { reason: text() }, &[7, 1, b'a']),
        (CallError::TlsCertificate { reason: text() }, &[8, 1, b'a']),
        (CallError::TlsProtocol { reason: text() }, &[9, 1, b'a']),
        (CallError::ResponseTimeout { limit_ms: 5 }, &[10, 5]),
        (CallError::ResponseIncomplete { reason: text() }, &[11, 1, b'a']),
        (CallError::ResponseHeaders { limit_bytes: 5 }, &[12, 5]),
        (CallError::ResponseBody { limit_bytes: 5 }, &[13, 5]),
        (CallError::Protocol { reason: text() }, &[14, 1, b'a']),
        (CallError::Limit { reason: text() }, &[15, 1, b'a']),
        (CallError::InDoubt { reason: text() }, &[16, 1, b'a']),
        (CallError::Internal { reason: text() }, &[17, 1, b'a']),
    ];
    for (error, bytes) in errors {
        assert_eq!(postcard::to_stdvec(&error).expect("it has a form"), bytes, "{error}");
        assert_eq!(postcard::from_bytes::<CallError>(bytes).expect("it is read"), error);
    }
}

fn results() -> impl Strategy<Value = Option<CallResult>> {
    let fields = || {
        prop::collection::vec(("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..9)), 0..4).prop_map(|fields| {
            fields.into_iter().map(|(name, value)| Field { name, value: value.into() }).collect::<Vec<_>>()
        })
    };
    let response = (any::<u16>(), fields(), prop::collection::vec(any::<u8>(), 0..99), fields()).prop_map(
        |(status, headers, body, trailers)| Ok(Arc::new(CallResponse { status, headers, body: body.into(), trailers })),
    );
    let error = any::<u64>().prop_map(|limit_ms| Err(CallError::ResponseTimeout { limit_ms }));
    prop::option::of(prop_oneof![response, error])
}

fn networks() -> impl Strategy<Value = Arc<NetworkRecord>> {
    let call = (any::<u32>(), any::<[u8; 16]>(), ".{0,9}", ".{0,30}", any::<u64>(), results()).prop_map(
        |(index, hash, method, target, seen, result)| CallRecord {
            index,
            hash: RequestHash(hash),
            method,
            target,
            seen: Timestamp(seen),
            result,
        },
    );
    (any::<[u64; 2]>(), prop::collection::vec(call, 0..5)).prop_map(|([calls, bytes], all)| {
        Arc::new(NetworkRecord { charged: NetworkAmount { calls, bytes }, calls: all.into() })
    })
}

fn without_results(network: &NetworkRecord) -> NetworkRecord {
    let calls = network.calls.iter().map(|call| CallRecord { result: None, ..call.clone() }).collect();
    NetworkRecord { charged: network.charged, calls }
}

proptest! {
    /// A kept transaction leaves the results to records of their own. Only an answer whose id may run again keeps them.
    #[test]
    fn the_calls_of_a_transaction_are_read_back_as_far_as_they_are_needed(
        network in networks(),
        answer in prop_oneof![answers(), Just(Answer::Failed(Cause::Interrupted))],
        body_hash in any::<[u8; 16]>(),
    ) {
        let record = TransactionRecord {
            sequence: Sequence(7),
            id: "id".into(),
            is_id_kept: true,
            user: Name::new("ada").expect("a name"),
            incarnation: 3,
            timestamp: Timestamp(5),
            epoch: Epoch([3; 16]),
            body_hash: ReplyHash(body_hash),
            body: Bytes::from_static(b"body"),
            answer,
            fuel_used: 1,
            query_fuel_used: 2,
            network: Some(Arc::clone(&network)),
        };
        let bytes = encode(&Record::Transaction(Arc::new(record.clone())));
        let Record::Transaction(read) = decode(&service(), Epoch([3; 16]), &bytes)? else { panic!("another kind") };
        let written = if record.answer.is_kept() { Arc::new(without_results(&network)) } else { network };
        let expected = TransactionRecord { network: Some(written), ..record };
        prop_assert_eq!(&*read, &expected);

        let check = AnswerCheck::of(&bytes, expected.body_hash);
        let body = body_of(&bytes).expect("it has one");
        let answer = decode_answer(&service(), &check, &bytes, &body, &bytes[body.bytes.end..]).expect("it is there");
        let without_body = TransactionRecord { body: Bytes::new(), epoch: Epoch::default(), ..expected };
        prop_assert_eq!(&*answer.transaction, &without_body);

        let relocated = RelocatedAnswer { transaction: Arc::new(without_body), bytes: 9 };
        let bytes = encode(&Record::Relocated(relocated.clone()));
        let Record::Relocated(read) = decode(&service(), Epoch::default(), &bytes)? else { panic!("another kind") };
        let network = relocated.transaction.network.clone().filter(|_| relocated.transaction.may_run_again());
        let expected = TransactionRecord { network, ..(*relocated.transaction).clone() };
        prop_assert_eq!(&*read.transaction, &expected);
        let body = body_of(&bytes).expect("it has one");
        let check = AnswerCheck::of(&bytes, expected.body_hash);
        let answer = decode_answer(&service(), &check, &bytes, &body, &bytes[body.bytes.end..]).expect("it is there");
        prop_assert_eq!((&*answer.transaction, answer.bytes), (&expected, 9));
    }

    #[test]
    fn intents_and_outcomes_are_read_back_as_they_were(network in networks(), numbers in any::<[u64; 4]>(), id in ".{0,60}") {
        for call in network.calls.iter() {
            let intent = Arc::new(CallIntent {
                sequence: Sequence(numbers[0]),
                id: id.as_str().into(),
                is_id_kept: numbers[1] % 2 == 0,
                user: Name::new("ada").expect("a name"),
                incarnation: numbers[1],
                timestamp: Timestamp(numbers[2]),
                body_hash: ReplyHash([7; 16]),
                index: call.index,
                hash: call.hash,
                method: call.method.clone(),
                target: call.target.clone(),
                bytes: numbers[3],
            });
            let bytes = encode(&Record::CallIntent(Arc::clone(&intent)));
            prop_assert_eq!(bytes[0], 12);
            let Record::CallIntent(read) = decode(&service(), Epoch::default(), &bytes)? else { panic!("another kind") };
            prop_assert_eq!(read, intent);
            let took = Duration::from_nanos(numbers[3]);
            let outcome =
                Arc::new(CallOutcome { sequence: Sequence(numbers[0]), call: call.clone(), took, bytes: numbers[1] });
            let bytes = encode(&Record::CallOutcome(Arc::clone(&outcome)));
            let Record::CallOutcome(read) = decode(&service(), Epoch::default(), &bytes)? else { panic!("another kind") };
            prop_assert_eq!(read, outcome);
        }
    }

    #[test]
    fn a_transaction_is_read_back_as_it_was(
        numbers in any::<[u64; 4]>(),
        incarnation in prop_oneof![Just(0), any::<u64>()],
        id in ".{0,60}",
        is_id_kept in any::<bool>(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        answer in answers(),
    ) {
        let epoch = Epoch([3; 16]);
        let record = TransactionRecord {
            sequence: Sequence(numbers[0]),
            id: id.as_str().into(),
            is_id_kept,
            user: Name::new("ada").expect("a name"),
            incarnation,
            timestamp: Timestamp(numbers[1]),
            epoch,
            body_hash: ReplyHash::of_body(&body),
            body: body.into(),
            answer,
            fuel_used: numbers[2],
            query_fuel_used: numbers[3],
            network: None,
        };
        let bytes = encode(&Record::Transaction(Arc::new(record.clone())));
        let Record::Transaction(read) = decode(&service(), epoch, &bytes)? else { panic!("another kind") };
        prop_assert_eq!(&*read, &record);
        let relocated = RelocatedAnswer {
            transaction: Arc::new(TransactionRecord { body: Bytes::new(), ..record }),
            bytes: numbers[0],
        };
        let bytes = encode(&Record::Relocated(relocated.clone()));
        let Record::Relocated(read) = decode(&service(), epoch, &bytes)? else { panic!("another kind") };
        prop_assert_eq!(read, relocated);
    }

    #[test]
    fn an_answer_is_read_without_its_body_as_it_is_with_it_and_damage_is_found(
        numbers in any::<[u64; 5]>(),
        incarnation in prop_oneof![Just(0), any::<u64>()],
        id in ".{0,30}",
        body in prop::collection::vec(any::<u8>(), 0..300),
        answer in answers(),
        flipped in any::<prop::sample::Index>(),
    ) {
        let record = TransactionRecord {
            sequence: Sequence(numbers[0]),
            id: id.as_str().into(),
            is_id_kept: true,
            user: Name::new("ada").expect("a name"),
            incarnation,
            timestamp: Timestamp(numbers[1]),
            epoch: Epoch::default(),
            body_hash: ReplyHash::of_body(&body),
            body: body.into(),
            answer,
            fuel_used: numbers[2],
            query_fuel_used: numbers[3],
            network: None,
        };
        let without_body = Arc::new(TransactionRecord { body: Bytes::new(), ..record.clone() });
        let relocated = |bytes| RelocatedAnswer { transaction: Arc::clone(&without_body), bytes };
        let first = relocated(record.answer_bytes() + record.body.len() as u64);
        let again = relocated(numbers[4]);
        let body_hash = record.body_hash;
        for (record, expected) in [(Record::Transaction(Arc::new(record)), first), (Record::Relocated(again.clone()), again)] {
            let mut bytes = encode(&record);
            let check = AnswerCheck::of(&bytes, body_hash);
            let read = |bytes: &[u8]| {
                let start = &bytes[..bytes.len().min(ANSWER_START_BYTES_MAX)];
                let body = body_of(start)?;
                decode_answer(&service(), &check, start, &body, bytes.get(body.bytes.end..)?)
            };
            prop_assert_eq!(read(&bytes), Some(expected.clone()));
            let body = body_of(&bytes).expect("it has one").bytes;
            let at = flipped.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert_eq!(read(&bytes), body.contains(&at).then_some(expected));
        }
    }

    #[test]
    fn queries_are_read_back_as_they_were(
        sequence in any::<u64>(),
        queries in prop::collection::vec(
            (".{0,60}", any::<[u64; 2]>(), prop::collection::vec(any::<u8>(), 0..300), answers()),
            0..20,
        ),
    ) {
        let epoch = Epoch([3; 16]);
        let queries = queries.into_iter().map(|(id, [timestamp, fuel_used], body, answer)| QueryRecord {
            id: id.into(),
            user: Name::new("ada").expect("a name"),
            timestamp: Timestamp(timestamp),
            body: body.into(),
            reply_hash: answer.hash(),
            fuel_used,
        });
        let record = QueriesRecord { sequence: Sequence(sequence), epoch, queries: queries.collect() };
        let bytes = encode(&Record::Queries(Arc::new(record.clone())));
        let Record::Queries(read) = decode(&service(), epoch, &bytes)? else { panic!("another kind") };
        prop_assert_eq!(&*read, &record);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&service(), Epoch::default(), &bytes);
        let check = AnswerCheck::of(&bytes, ReplyHash::of_body(&[]));
        if let Some(body) = body_of(&bytes) {
            let _ = decode_answer(&service(), &check, &bytes, &body, &bytes);
        }
    }
}

#[test]
fn a_failure_of_the_network_is_read_back_with_its_unit_and_others_keep_their_form() {
    let failure = |resource, unit, timestamp| SlaFailure {
        vm: VmId { service: service(), number: 3 },
        resource,
        usage: Usage { used: 99, limit: 100 },
        unit,
        threshold_percent: Percent::whole(98),
        transaction: "t".into(),
        sequence: Sequence(9),
        timestamp,
    };
    let at = Some(Timestamp(7));
    let threshold = 98_f64.to_le_bytes();
    let rest = [&[99, 100][..], &threshold, &[1, b't', 9]].concat();
    for (failure, start) in [
        (failure(Resource::Network, Unit::Calls, at), &[11, 0, 7, 3, 3][..]),
        (failure(Resource::Network, Unit::Bytes, at), &[11, 1, 7, 3, 3]),
        (failure(Resource::Cpu, Unit::Fuel, at), &[5, 7, 3, 0]),
        (failure(Resource::Memory, Unit::Bytes, at), &[5, 7, 3, 1]),
        (failure(Resource::Disk, Unit::Bytes, at), &[5, 7, 3, 2]),
        (failure(Resource::Disk, Unit::Bytes, None), &[2, 3, 2]),
    ] {
        let bytes = [start, &rest].concat();
        assert_eq!(encode(&Record::SlaFailure(failure.clone())), bytes, "{failure:?}");
        let read = decode(&service(), Epoch::default(), &bytes);
        assert!(matches!(read, Ok(Record::SlaFailure(read)) if read == failure), "{failure:?}");
    }
    // No host writes a failure of the network without its unit, or another one with a unit.
    for start in [&[5, 7, 3, 3][..], &[2, 3, 3], &[11, 0, 7, 3, 0]] {
        let refused = decode(&service(), Epoch::default(), &[start, &rest].concat()).expect_err("it is refused");
        assert!(refused.to_string().contains(" in another unit; use the host"), "{refused}");
    }
}

#[test]
fn events_are_read_back_as_they_were() {
    let vm = |number| VmId { service: service(), number };
    let failure = SlaFailure {
        vm: vm(3),
        resource: Resource::Memory,
        usage: Usage { used: 99, limit: 100 },
        unit: Unit::Bytes,
        threshold_percent: Percent::whole(98),
        transaction: "t".into(),
        sequence: Sequence(9),
        timestamp: Some(Timestamp(7)),
    };
    let failover = Failover {
        cause: FailoverCause::Memory,
        from: vm(3),
        from_machine: Name::new("m1").expect("a name"),
        to: vm(4),
        to_machine: Name::new("m2").expect("a name"),
        size: "small".into(),
        sequence: Sequence(9),
        snapshot_bytes: 7,
        disk_bytes: 0,
        replayed_transactions: 8,
        fuel_used: 9,
        pause: Duration::from_micros(10),
        forced_by: Some(Name::new("ada").expect("a name")),
        timestamp: Some(Timestamp(8)),
    };
    let read = |record: &Record| decode(&service(), Epoch::default(), &encode(record)).expect("decodes");
    assert!(matches!(read(&Record::SlaFailure(failure.clone())), Record::SlaFailure(read) if read == failure));
    assert!(matches!(read(&Record::Failover(failover.clone())), Record::Failover(read) if read == failover));
    let with_disk = Failover { cause: FailoverCause::Disk, disk_bytes: 11, ..failover.clone() };
    assert!(matches!(read(&Record::Failover(with_disk.clone())), Record::Failover(read) if read == with_disk));
    let of_network = Failover { cause: FailoverCause::Network, ..failover.clone() };
    assert!(matches!(read(&Record::Failover(of_network.clone())), Record::Failover(read) if read == of_network));
    // The encoding of the versions that had no time.
    let failure = SlaFailure { timestamp: None, ..failure };
    let failover = Failover { timestamp: None, forced_by: None, ..failover };
    assert_eq!(encode(&Record::SlaFailure(failure.clone()))[..3], [2, 3, 1]);
    assert_eq!(encode(&Record::Failover(failover.clone()))[..6], [3, 1, 3, 2, b'm', b'1']);
    assert!(matches!(read(&Record::SlaFailure(failure.clone())), Record::SlaFailure(read) if read == failure));
    assert!(matches!(read(&Record::Failover(failover.clone())), Record::Failover(read) if read == failover));
    let opened = Record::Opened { timestamp: Timestamp(5), epoch: Epoch([6; 16]) };
    assert!(matches!(read(&opened), Record::Opened { timestamp: Timestamp(5), epoch: Epoch([6, ..]) }));
}
