//! The sequences that wait, and which of them is next.
//!
//! Sequences of one priority are a class. The class with the highest level goes first: its priority, plus one
//! for every `ageing` that it has been passed over. In a class it is the turn of the client that has been served
//! least, and of that client's oldest sequence. So priorities hold, clients of a priority share fairly, and a class
//! is passed over for at most `ageing` times its distance to the highest one, while anything is admitted at all.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::admission::Client;
use super::member::Member;
use super::plan::SequenceId;
use super::service::Service;

/// What waits.
#[derive(Debug)]
pub(super) struct Queue {
    /// After how long a class that is passed over gains one level.
    ageing: Duration,
    classes: BTreeMap<i32, Class>,
    len: usize,
}

#[derive(Debug)]
struct Class {
    /// The sequences of each client, oldest first; never empty.
    lines: BTreeMap<Client, VecDeque<Member>>,
    /// Since when none of them was admitted.
    passed_over_since: Duration,
}

/// The one that is next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) priority: i32,
    pub(super) client: Client,
    /// Its priority with what its class gained by being passed over.
    pub(super) level: i64,
}

impl Queue {
    pub(super) fn new(ageing: Duration) -> Self {
        Self { ageing, classes: BTreeMap::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Puts a member in its place by age: one that was preempted goes before those that came after it.
    pub(super) fn insert(&mut self, member: Member, service: &mut Service, now: Duration) {
        if !self.clients().any(|client| *client == member.client) {
            service.joined(&member.client, self.clients());
        }
        let new = || Class { lines: BTreeMap::new(), passed_over_since: now };
        let class = self.classes.entry(member.priority).or_insert_with(new);
        let line = class.lines.entry(member.client.clone()).or_default();
        let at = line.partition_point(|other| other.age() < member.age());
        line.insert(at, member);
        self.len += 1;
    }

    /// Whose turn it is.
    pub(super) fn next(&self, service: &Service, now: Duration) -> Option<Next> {
        let level = |(&priority, class): (&i32, &Class)| {
            let passed_over = now.saturating_sub(class.passed_over_since);
            let gained = passed_over.as_nanos() / self.ageing.as_nanos().max(1);
            i64::from(priority).saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
        };
        // Of equal levels the class that was passed over for longest, or the highest would always win.
        let rank = |entry: &(&i32, &Class)| (level(*entry), std::cmp::Reverse(entry.1.passed_over_since));
        let (&priority, class) = self.classes.iter().max_by_key(rank)?;
        let served = |(client, line): &(&Client, &VecDeque<Member>)| {
            (service.of(client), line.front().map(Member::age))
        };
        let (client, _) = class.lines.iter().min_by_key(served)?;
        Some(Next { priority, client: client.clone(), level: level((&priority, class)) })
    }

    /// The member meant.
    pub(super) fn get(&self, next: &Next) -> Option<&Member> {
        self.classes.get(&next.priority)?.lines.get(&next.client)?.front()
    }

    /// Takes out the member meant: its class has had its turn.
    pub(super) fn take(&mut self, next: &Next, service: &mut Service, now: Duration) -> Option<Member> {
        let class = self.classes.get_mut(&next.priority)?;
        class.passed_over_since = now;
        let member = class.lines.get_mut(&next.client)?.pop_front()?;
        self.tidy(next.priority, &next.client, service);
        Some(member)
    }

    /// Takes out a sequence, if it waits.
    pub(super) fn remove(&mut self, sequence: SequenceId, service: &mut Service) -> Option<Member> {
        let (priority, client, at) = self.find(sequence)?;
        let member = self.classes.get_mut(&priority)?.lines.get_mut(&client)?.remove(at)?;
        self.tidy(priority, &client, service);
        Some(member)
    }

    /// A sequence that waits.
    pub(super) fn get_mut(&mut self, sequence: SequenceId) -> Option<&mut Member> {
        let (priority, client, at) = self.find(sequence)?;
        self.classes.get_mut(&priority)?.lines.get_mut(&client)?.get_mut(at)
    }

    /// Clients that have something waiting; one with several priorities more than once.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Client> {
        self.classes.values().flat_map(|class| class.lines.keys())
    }

    fn find(&self, sequence: SequenceId) -> Option<(i32, Client, usize)> {
        let lines = self.classes.iter().flat_map(|(priority, class)| {
            class.lines.iter().map(move |(client, line)| (priority, client, line))
        });
        let mut places = lines.filter_map(|(priority, client, line)| {
            let at = line.iter().position(|member| member.sequence == sequence)?;
            Some((*priority, client.clone(), at))
        });
        places.next()
    }

    /// After a member has been taken out of a line.
    fn tidy(&mut self, priority: i32, client: &Client, service: &mut Service) {
        self.len -= 1;
        let Some(class) = self.classes.get_mut(&priority) else { return };
        if class.lines.get(client).is_some_and(VecDeque::is_empty) {
            class.lines.remove(client);
        }
        if class.lines.is_empty() {
            self.classes.remove(&priority);
        }
        if !self.clients().any(|other| other == client) {
            service.left(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Admission;

    const AGEING: Duration = Duration::from_secs(1);

    struct Rig {
        queue: Queue,
        service: Service,
        next: u64,
    }

    impl Rig {
        fn new() -> Self {
            Self { queue: Queue::new(AGEING), service: Service::default(), next: 0 }
        }

        fn add(&mut self, priority: i32, client: &str, now: Duration) -> u64 {
            self.next += 1;
            let admission = Admission {
                sequence: SequenceId(self.next),
                prompt: vec![1; 4],
                resumed: 0,
                max_new_tokens: 4,
                priority,
                client: Some(client.into()),
                arrival: now,
                deadline: None,
            };
            self.queue.insert(admission.into(), &mut self.service, now);
            self.next
        }

        /// Admits the next one and charges its client.
        fn take(&mut self, now: Duration, cost: u64) -> u64 {
            let next = self.queue.next(&self.service, now).expect("something waits");
            self.service.charge(&next.client, cost);
            self.queue.take(&next, &mut self.service, now).expect("it waits").sequence.0
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_higher_priority_goes_first_and_equals_go_by_age() {
        let mut rig = Rig::new();
        let ids =
            [(0, 1), (5, 2), (0, 3), (5, 4)].map(|(priority, at)| rig.add(priority, "a", seconds(0) * at));
        let order: Vec<u64> = (0..4).map(|_| rig.take(seconds(0), 1)).collect();
        assert_eq!(order, [ids[1], ids[3], ids[0], ids[2]]);
    }

    #[test]
    fn clients_of_a_priority_take_turns_by_what_they_were_served() {
        let mut rig = Rig::new();
        let many: Vec<u64> = (0..4).map(|_| rig.add(0, "many", seconds(0))).collect();
        let few: Vec<u64> = (0..2).map(|_| rig.add(0, "few", seconds(1))).collect();
        let order: Vec<u64> = (0..6).map(|_| rig.take(seconds(1), 10)).collect();
        assert_eq!(order, [many[0], few[0], many[1], few[1], many[2], many[3]]);
    }

    #[test]
    fn a_class_that_is_passed_over_rises_until_it_has_its_turn() {
        let mut rig = Rig::new();
        let low = rig.add(0, "a", seconds(0));
        let mut admitted = Vec::new();
        for second in 0..6 {
            rig.add(3, "b", seconds(second));
            admitted.push(rig.take(seconds(second), 1));
        }
        let turn = admitted.iter().position(|id| *id == low);
        assert_eq!(turn, Some(3), "three levels are three seconds: {admitted:?}");
    }

    #[test]
    fn what_was_preempted_goes_before_what_came_later() {
        let mut rig = Rig::new();
        let (first, second) = (rig.add(0, "a", seconds(1)), rig.add(0, "a", seconds(2)));
        let next = rig.queue.next(&rig.service, seconds(2)).expect("two wait");
        let member = rig.queue.take(&next, &mut rig.service, seconds(2)).expect("it waits");
        rig.queue.insert(member, &mut rig.service, seconds(3));
        assert_eq!([rig.take(seconds(3), 0), rig.take(seconds(3), 0)], [first, second]);
    }
}
