use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn user(index: usize) -> Name {
    Name::new(&format!("user{index}")).expect("a name")
}

#[derive(Debug, Clone)]
enum Step {
    /// This many requests of a user arrive, each of this many bytes and this future cost.
    Push(usize, usize, usize, u64),
    /// A turn of at most this many requests begins.
    Begin(usize),
    /// The turn ends after this many of its requests.
    End(usize),
    /// Every second request of a user is removed.
    Remove(usize),
}

const COST_MAX: u64 = 1_000;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..4, 1usize..6, 0usize..40, 1..=COST_MAX).prop_map(|(u, n, b, c)| Step::Push(u, n, b, c)),
        6 => (1usize..5).prop_map(Step::Begin),
        6 => (0usize..5).prop_map(Step::End),
        1 => (0usize..4).prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 1..200)
}

#[test]
fn what_is_left_of_a_turn_comes_back_though_others_have_taken_its_room() {
    let mut turns = Turns::new(16, 1_000);
    let mut taken = VecDeque::new();
    while turns.push(&user(0), 1, ()).is_ok() {}
    turns.begin_turn(8, 1_000, None, &mut taken).expect("one waits");
    taken.pop_front();
    for other in 1..10 {
        while turns.push(&user(other), 1, ()).is_ok() {}
    }
    let before = turns.len();
    turns.end_turn(1, &mut taken);
    assert_eq!(turns.len(), before + 7);
    assert!(turns.len() > 16, "more than the bound");
    assert!(turns.push(&user(11), 1, ()).is_err() && !turns.has_room(&user(11)));
    let mut runs = 0;
    while turns.begin_turn(1, 1_000, None, &mut taken).is_some() {
        taken.clear();
        turns.end_turn(1, &mut taken);
        runs += 1;
    }
    assert_eq!((runs, turns.len()), (before + 7, 0));
    assert!(turns.push(&user(11), 1, ()).is_ok());
}

/// The expected state of a user, without any of the machine's data structures.
#[derive(Debug, Default)]
struct Model {
    /// Number, bytes and cost of each request, in order.
    line: VecDeque<(u64, usize, u64)>,
    time: u64,
    /// The cost that each other user was served since this user began to wait, and how far it was behind then.
    served: BTreeMap<usize, (u64, u64)>,
}

impl Model {
    fn bytes(&self) -> usize {
        self.line.iter().map(|(_, bytes, _)| bytes).sum()
    }
}

proptest! {
    #[test]
    fn turns_are_in_order_bounded_and_fair(steps in steps()) {
        const COUNT_MAX: usize = 24;
        const BYTES_MAX: usize = 300;
        const TURN_COUNT: usize = 5;
        let mut turns: Turns<(u64, u64)> = Turns::new(COUNT_MAX, BYTES_MAX);
        let mut model: Vec<Model> = (0..4).map(|_| Model::default()).collect();
        const TURN_BYTES: usize = 100;
        let (mut number, mut floor) = (0, 0);
        let mut running: Option<(usize, VecDeque<Waiting<_>>, Vec<_>)> = None;
        for step in steps {
            let waiting = |model: &[Model]| model.iter().map(|user| user.line.len()).sum::<usize>();
            let bytes_waiting = |model: &[Model]| model.iter().map(Model::bytes).sum::<usize>();
            match step {
                Step::Push(index, count, bytes, cost) => for _ in 0..count {
                    number += 1;
                    let free = COUNT_MAX.saturating_sub(waiting(&model));
                    let free_bytes = BYTES_MAX.saturating_sub(bytes_waiting(&model));
                    let own = &model[index];
                    let fits = own.line.len() < free
                        && if own.line.is_empty() { bytes <= free_bytes } else { own.bytes() + bytes <= free_bytes };
                    prop_assert_eq!(turns.push(&user(index), bytes, (number, cost)).is_ok(), fits);
                    if !fits {
                        continue;
                    }
                    let is_running = running.as_ref().is_some_and(|(running, ..)| *running == index);
                    if own.line.is_empty() && !is_running {
                        let time = own.time.max(floor);
                        let behind = (0..4).map(|other| (other, (0, time.saturating_sub(model[other].time.max(floor)))));
                        let behind = behind.collect();
                        (model[index].time, model[index].served) = (time, behind);
                    }
                    model[index].line.push_back((number, bytes, cost));
                },
                Step::Begin(taken_max) => {
                    if running.is_some() {
                        continue;
                    }
                    let mut taken = VecDeque::new();
                    let next = turns.begin_turn(taken_max, TURN_BYTES, None, &mut taken);
                    let least = model.iter().filter(|user| !user.line.is_empty()).map(|user| user.time).min();
                    prop_assert_eq!(next.is_some(), least.is_some());
                    let Some((next, least)) = next.zip(least) else { continue };
                    let index = (0..4).find(|index| user(*index) == next).expect("known");
                    // The turn belongs to a user with the least virtual time, and takes its requests in order.
                    prop_assert_eq!(model[index].time, least);
                    floor = least;
                    prop_assert!(!taken.is_empty() && taken.len() <= taken_max);
                    let of_model: Vec<_> = model[index].line.drain(..taken.len()).collect();
                    prop_assert!(taken.iter().zip(&of_model).all(|(taken, model)| taken.request.0 == model.0));
                    running = Some((index, taken, of_model));
                }
                Step::End(run) => {
                    let Some((index, mut taken, mut of_model)) = running.take() else { continue };
                    let run = run.min(taken.len());
                    taken.drain(..run);
                    let cost = of_model.drain(..run).map(|(_, _, cost)| cost).sum();
                    of_model.into_iter().rev().for_each(|left| model[index].line.push_front(left));
                    turns.end_turn(cost, &mut taken);
                    model[index].time += cost;
                    for other in (0..4).filter(|other| *other != index) {
                        if model[other].line.is_empty() {
                            continue;
                        }
                        let (served, behind) = model[other].served.entry(index).or_default();
                        *served += cost;
                        // While a user waits, another user is served at most the amount that it was behind, plus
                        // one turn.
                        prop_assert!(*served <= *behind + TURN_COUNT as u64 * COST_MAX, "{served} {behind}");
                    }
                    model[index].served = (0..4)
                        .map(|other| (other, (0, model[index].time.saturating_sub(model[other].time.max(floor)))))
                        .collect();
                    if waiting(&model) == 0 {
                        floor = 0;
                        model.iter_mut().for_each(|user| user.time = 0);
                    }
                }
                Step::Remove(index) => {
                    let removed = turns.remove(&user(index), |(number, _)| number % 2 == 0);
                    let mut meant = Vec::new();
                    model[index].line.retain(|(number, _, cost)| {
                        if number % 2 == 0 {
                            meant.push((*number, *cost));
                        }
                        number % 2 != 0
                    });
                    prop_assert_eq!(removed, meant);
                }
            }
            prop_assert_eq!(turns.len(), waiting(&model));
            prop_assert_eq!(turns.bytes, bytes_waiting(&model));
            // The rest of a turn comes back even without room for it.
            prop_assert!(turns.len() <= COUNT_MAX + TURN_COUNT && turns.bytes <= BYTES_MAX + TURN_BYTES);
            let least = model.iter().filter_map(|user| Some(user.line.front()?.0)).min();
            prop_assert_eq!(turns.earliest().is_some(), least.is_some());
        }
        let left = turns.take_all().len();
        prop_assert_eq!((left, turns.len()), (model.iter().map(|user| user.line.len()).sum(), 0));
    }
}

#[test]
fn one_user_fills_at_most_half_of_the_queue() {
    let mut turns = Turns::new(2_048, 1 << 20);
    let fill = |turns: &mut Turns<()>, index| (0..).take_while(|_| turns.push(&user(index), 1, ()).is_ok()).count();
    assert_eq!(fill(&mut turns, 0), 1_024);
    assert!(!turns.has_room(&user(0)));
    for index in 1..10 {
        assert!(turns.has_room(&user(index)));
        assert!(fill(&mut turns, index) > 0);
    }
    assert!(turns.push(&user(10), 1, ()).is_ok());
}

#[test]
fn a_turn_does_not_reach_past_an_order_that_waits_for_its_first() {
    let mut turns = Turns::new(100, 100);
    let mut taken = VecDeque::new();
    turns.push(&user(0), 0, 1).expect("room");
    turns.push(&user(0), 0, 2).expect("room");
    let order = turns.arrive();
    turns.push(&user(0), 0, 3).expect("room");
    turns.begin_turn(10, 10, Some(order), &mut taken).expect("a turn");
    assert_eq!(taken.drain(..).map(|waiting| waiting.request).collect::<Vec<_>>(), [1, 2]);
    turns.end_turn(1, &mut taken);
    assert!(turns.earliest().is_some_and(|earliest| earliest > order));
    turns.begin_turn(10, 10, Some(order), &mut taken).expect("a turn");
    assert_eq!(taken.len(), 1);
}

#[test]
fn users_who_wait_for_nothing_do_not_pile_up() {
    let mut turns = Turns::new(10, 10);
    turns.push(&user(0), 0, ()).expect("room");
    for index in 1..2 * IDLE_USERS_MAX {
        turns.push(&user(index), 0, ()).expect("room");
        let mut taken = VecDeque::new();
        turns.begin_turn(1, 1, None, &mut taken).expect("a turn");
        taken.clear();
        turns.end_turn(1_000_000, &mut taken);
    }
    assert!(turns.lines.len() <= IDLE_USERS_MAX, "{}", turns.lines.len());
}
