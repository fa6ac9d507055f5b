use super::*;
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
    ];
    for (cause, bytes) in causes {
        assert_eq!(postcard::to_stdvec(&cause).expect("it has a form"), bytes, "{cause}");
        assert_eq!(postcard::from_bytes::<Cause>(bytes).expect("it is read"), cause);
    }
}

proptest! {
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
        };
        let without_body = Arc::new(TransactionRecord { body: Bytes::new(), ..record.clone() });
        let relocated = |bytes| RelocatedAnswer { transaction: Arc::clone(&without_body), bytes };
        let (first, again) = (relocated(record.bytes()), relocated(numbers[4]));
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
