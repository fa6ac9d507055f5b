use super::*;
use std::net::Ipv4Addr;

const NOW: Timestamp = Timestamp(1_000_000_000_000_000_000);

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(number))
}

/// Returns how many attempts pass in immediate succession.
fn passing(limits: &mut LogInLimits, user: &str, address: IpAddr, now: Timestamp) -> usize {
    (0..1_000).take_while(|_| limits.attempt(&name(user), address, now).is_ok()).count()
}

#[test]
fn guesses_at_one_user_from_one_address_have_to_wait() {
    let mut limits = LogInLimits::default();
    assert_eq!(passing(&mut limits, "ada", address(1), NOW), 5);
    assert_eq!(limits.attempt(&name("ada"), address(1), NOW), Err(Duration::from_secs(30)));
    let later = NOW.plus(Duration::from_secs(29));
    assert_eq!(limits.attempt(&name("ada"), address(1), later), Err(Duration::from_secs(1)));
    // The limit applies neither to other users nor to her from other addresses.
    assert_eq!(passing(&mut limits, "bob", address(1), later), 5);
    assert_eq!(passing(&mut limits, "ada", address(2), later), 5);
    // Refused attempts did not extend the wait.
    assert_eq!(passing(&mut limits, "ada", address(1), NOW.plus(Duration::from_secs(30))), 1);
    assert_eq!(passing(&mut limits, "ada", address(1), NOW.plus(Duration::from_secs(3_600))), 5);
}

#[test]
fn one_address_is_limited_whomever_it_tries() {
    let mut limits = LogInLimits::default();
    let passed = (0..1_000).filter(|n| limits.attempt(&name(&format!("user-{n}")), address(1), NOW).is_ok());
    assert_eq!(passed.count(), 100);
    assert_eq!(limits.attempt(&name("ada"), address(1), NOW), Err(Duration::from_secs(1)));
    assert_eq!(limits.attempt(&name("ada"), address(2), NOW), Ok(()));
}

#[test]
fn many_addresses_cannot_lock_a_user_out_where_they_log_in() {
    let mut limits = LogInLimits::default();
    let (ada, home) = (name("ada"), address(1));
    assert_eq!(limits.attempt(&ada, home, NOW), Ok(()));
    limits.succeeded(&ada, home, Trust::Fresh);
    let passed = (1_000..9_000).filter(|n| limits.attempt(&ada, address(*n), NOW).is_ok());
    assert_eq!(passed.count(), 200, "each is the first from its address");
    assert_eq!(limits.attempt(&ada, address(2), NOW), Err(Duration::from_secs(1)));
    assert_eq!(passing(&mut limits, "ada", home, NOW), 5);
    // From other addresses she has to wait, but not for ever.
    assert_eq!(limits.attempt(&ada, address(2), NOW.plus(Duration::from_secs(1))), Ok(()));
}

#[test]
fn a_new_address_does_not_compete_with_those_that_have_failed() {
    let mut limits = LogInLimits::default();
    let ada = name("ada");
    let (mut passed, mut now) = (0, NOW);
    // Three minutes of guesses from 150 addresses, as fast as the limits allow.
    for second in 0..180 {
        now = NOW.plus(Duration::from_secs(second));
        for attacker in 1_000..1_150 {
            passed += usize::from(limits.attempt(&ada, address(attacker), now).is_ok());
        }
        let new = address(u32::try_from(second).expect("small"));
        assert_eq!(limits.trust(&ada, new, now), Trust::Fresh);
        assert_eq!(limits.attempt(&ada, new, now), Ok(()), "after {second} s");
        limits.succeeded(&ada, new, Trust::Fresh);
    }
    assert!(passed <= 150 + 50 + 180 / 5 + 1, "{passed} guesses passed");
    assert_eq!(limits.trust(&ada, address(1_000), now), Trust::Failed);
    assert_eq!(limits.trust(&ada, address(1_000), now.plus(FAILURE_REMEMBERED)), Trust::Fresh);
}

#[test]
fn an_attempt_that_was_not_made_counts_for_nothing() {
    let mut limits = LogInLimits::default();
    for _ in 0..1_000 {
        assert_eq!(limits.attempt(&name("ada"), address(1), NOW), Ok(()));
        limits.not_made(&name("ada"), address(1), Trust::Fresh);
    }
    assert_eq!(limits.trust(&name("ada"), address(1), NOW), Trust::Fresh);
}

#[test]
fn a_known_user_does_not_erase_the_failures_of_others_at_the_address() {
    let mut limits = LogInLimits::default();
    let (ada, home) = (name("ada"), address(1));
    assert_eq!(limits.attempt(&ada, home, NOW), Ok(()));
    limits.succeeded(&ada, home, Trust::Fresh);
    assert_eq!(limits.attempt(&name("bob"), home, NOW), Ok(()));
    assert_eq!(limits.attempt(&ada, home, NOW), Ok(()));
    limits.succeeded(&ada, home, Trust::Known);
    assert_eq!(limits.trust(&name("bob"), home, NOW), Trust::Failed);
    assert_eq!(limits.attempt(&ada, home, NOW), Ok(()));
    limits.not_made(&ada, home, Trust::Known);
    assert_eq!(limits.trust(&name("bob"), home, NOW), Trust::Failed);
}

#[test]
fn attempts_that_succeed_do_not_count_against_the_user() {
    let mut limits = LogInLimits::default();
    for _ in 0..90 {
        assert_eq!(limits.attempt(&name("ada"), address(1), NOW), Ok(()));
        limits.succeeded(&name("ada"), address(1), Trust::Fresh);
    }
    assert_eq!(passing(&mut limits, "ada", address(1), NOW), 5);
    // They do not make the bucket larger either.
    for _ in 0..3 {
        limits.succeeded(&name("bob"), address(2), Trust::Fresh);
    }
    assert_eq!(passing(&mut limits, "bob", address(2), NOW), 5);
}

fn parsed(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn an_ipv6_network_counts_as_one_address() {
    let mut limits = LogInLimits::default();
    assert_eq!(passing(&mut limits, "ada", parsed("2001:db8::1"), NOW), 5);
    assert_eq!(passing(&mut limits, "ada", parsed("2001:db8::ffff:1"), NOW), 0);
    assert_eq!(passing(&mut limits, "ada", parsed("2001:db8:0:1::1"), NOW), 5);
}

#[test]
fn a_mapped_address_counts_as_its_ipv4_address() {
    let mut limits = LogInLimits::default();
    assert_eq!(passing(&mut limits, "ada", parsed("192.0.2.1"), NOW), 5);
    assert_eq!(passing(&mut limits, "ada", parsed("::ffff:192.0.2.1"), NOW), 0);
}

#[test]
fn a_clock_that_is_put_back_locks_nobody_out() {
    let mut limits = LogInLimits::default();
    assert_eq!(passing(&mut limits, "ada", address(1), NOW), 5);
    let back = Timestamp(NOW.0 / 2);
    assert_eq!(limits.attempt(&name("ada"), address(1), back), Err(Duration::from_secs(30)));
    assert_eq!(passing(&mut limits, "ada", address(1), back.plus(Duration::from_secs(150))), 5);
}

#[test]
fn the_memory_of_attempts_is_bounded() {
    let mut limits = LogInLimits::default();
    limits.succeeded(&name("ada"), address(0), Trust::Fresh);
    for number in 1..20_000 {
        let _ = limits.attempt(&name(&format!("user-{number}")), address(number), NOW);
    }
    let Recent { values, order, .. } = &limits.buckets;
    assert_eq!((values.len(), order.len()), (TRACKED_MAX, TRACKED_MAX));
    // Only successful log-ins can displace the known addresses.
    assert!(limits.known.contains(&(name("ada"), address(0))));
}
