//! The processes by id: parents, process groups, sessions, and the exits that parents have not waited for.

use abi::Errno;
use abi::signal::Signal;
use alloc::vec::Vec;

/// The processes of all roots. A root is a process without a parent, as init; when a process exits, the root
/// above it adopts its children. `P` is the process, `E` the information that a wait returns.
///
/// Each process is either running, or a zombie until its parent has waited for it.
#[derive(Debug)]
pub struct ProcessTree<P, E> {
    /// By ascending id.
    nodes: Vec<TreeEntry<P, E>>,
    limit: usize,
}

#[derive(Debug)]
struct TreeEntry<P, E> {
    id: u32,
    /// 0 for a root.
    parent: u32,
    group: u32,
    session: u32,
    exit_signal: Option<Signal>,
    /// The last stop or continuation, until a wait returns it.
    change: Option<JobChange>,
    /// Whether it has executed a program since the fork.
    has_executed: bool,
    state: Lifecycle<P, E>,
}

#[derive(Debug)]
enum Lifecycle<P, E> {
    Running(P),
    Zombie(E),
}

/// A change of a running process that a wait returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobChange {
    /// Stopped by this signal.
    Stopped(Signal),
    /// Continued by `SIGCONT`.
    Continued,
}

/// The events that a wait is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitEvents {
    /// Exits.
    pub exited: bool,
    /// Stops.
    pub stopped: bool,
    /// Continuations.
    pub continued: bool,
}

impl WaitEvents {
    fn contains(self, change: JobChange) -> bool {
        match change {
            JobChange::Stopped(_) => self.stopped,
            JobChange::Continued => self.continued,
        }
    }
}

/// The children that a wait is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitSelector {
    /// Any child.
    Any,
    /// The child with this id.
    Process(u32),
    /// The children in this process group.
    Group(u32),
}

/// The kinds of children that a wait is for, by the signal that their exit sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildKind {
    /// `SIGCHLD`.
    Forked,
    /// Any other, or none (`__WCLONE`).
    Cloned,
    /// All (`__WALL`).
    All,
}

/// The result of a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildWait<E> {
    /// This child has exited.
    Exited(u32, E),
    /// This child has stopped or continued.
    Changed(u32, JobChange),
    /// A child may do so later.
    Pending,
    /// There is no such child.
    NoChild,
}

/// The effect of an exit.
#[derive(Debug)]
pub struct Exit<P> {
    /// The process, to be dropped by the caller.
    pub process: P,
    /// The parent, and the signal to be sent to it.
    pub parent: Option<(P, Option<Signal>)>,
    /// The root, if it has adopted a zombie, for which it gets `SIGCHLD`.
    pub adopter: Option<P>,
}

impl<P: Clone, E: Copy> ProcessTree<P, E> {
    /// No processes. There are at most `limit`, zombies included.
    pub const fn new(limit: usize) -> Self {
        Self { nodes: Vec::new(), limit }
    }

    /// Adds a root with a process group and a session of its own.
    ///
    /// # Errors
    /// `EAGAIN` at the limit, `ENOMEM`.
    pub fn add_root(&mut self, id: u32, process: P) -> Result<(), Errno> {
        let state = Lifecycle::Running(process);
        self.add(TreeEntry {
            id,
            parent: 0,
            group: id,
            session: id,
            exit_signal: None,
            change: None,
            has_executed: true,
            state,
        })
    }

    /// Adds a child of `parent`, in its process group and session. `exit_signal` is sent to the parent when
    /// the child exits.
    ///
    /// # Errors
    /// `EAGAIN` at the limit, `ENOMEM`; `ESRCH` if the parent has exited.
    pub fn add_child(
        &mut self,
        parent: u32,
        id: u32,
        process: P,
        exit_signal: Option<Signal>,
    ) -> Result<(), Errno> {
        let TreeEntry { group, session, .. } = *self.running(parent).ok_or(Errno::ESRCH)?;
        let state = Lifecycle::Running(process);
        self.add(TreeEntry {
            id,
            parent,
            group,
            session,
            exit_signal,
            change: None,
            has_executed: false,
            state,
        })
    }

    fn add(&mut self, node: TreeEntry<P, E>) -> Result<(), Errno> {
        if self.nodes.len() >= self.limit {
            return Err(Errno::EAGAIN);
        }
        self.nodes.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let at = self.nodes.partition_point(|other| other.id < node.id);
        self.nodes.insert(at, node);
        Ok(())
    }

    /// Removes a process that was added and has not run.
    pub fn remove(&mut self, id: u32) -> Option<P> {
        let at = self.index(id)?;
        match self.nodes.remove(at).state {
            Lifecycle::Running(process) => Some(process),
            Lifecycle::Zombie(_) => None,
        }
    }

    /// The exit of a process: it becomes a zombie with `exit`, or vanishes if it is a root, or if its parent
    /// does not want to wait for it (`is_ignored`). Its children are adopted by the root above; those of a
    /// root have no parent any more, and its zombies vanish. `set_parent` is called with each adopted process
    /// and the id of its new parent.
    pub fn exit(
        &mut self,
        id: u32,
        exit: E,
        is_ignored: impl Fn(&P) -> bool,
        set_parent: impl Fn(&P, u32),
    ) -> Option<Exit<P>> {
        let root = self.root_of(id)?;
        let (adopter_id, is_root) = (if root == id { 0 } else { root }, root == id);
        let mut has_zombie = false;
        for child in self.nodes.iter_mut().filter(|node| node.parent == id) {
            child.parent = adopter_id;
            match &child.state {
                Lifecycle::Running(child) => set_parent(child, adopter_id),
                Lifecycle::Zombie(_) => has_zombie = true,
            }
        }
        self.nodes.retain(|node| node.parent != 0 || matches!(node.state, Lifecycle::Running(_)));
        let adopter = self.running_process(adopter_id).filter(|_| has_zombie);
        if adopter.as_ref().is_some_and(&is_ignored) {
            self.nodes
                .retain(|node| node.parent != adopter_id || matches!(node.state, Lifecycle::Running(_)));
        }
        let at = self.index(id)?;
        let node = &self.nodes[at];
        let parent = self.running_process(node.parent).map(|parent| (parent, node.exit_signal));
        let vanishes = is_root || parent.as_ref().is_none_or(|(parent, _)| is_ignored(parent));
        let state = core::mem::replace(&mut self.nodes[at].state, Lifecycle::Zombie(exit));
        if vanishes {
            self.nodes.remove(at);
        }
        let Lifecycle::Running(process) = state else { return None };
        Some(Exit { process, parent, adopter })
    }

    /// The root above process `id`, or that process if it is a root.
    pub fn root_of(&self, id: u32) -> Option<u32> {
        let mut node = self.running(id)?;
        while node.parent != 0 {
            node = self.node(node.parent)?;
        }
        Some(node.id)
    }

    /// Looks for a child of `parent` with one of `events`, and removes the event, or the child that has
    /// exited, if `removes`.
    pub fn wait(
        &mut self,
        parent: u32,
        selector: WaitSelector,
        (kind, events): (ChildKind, WaitEvents),
        removes: bool,
    ) -> ChildWait<E> {
        let is_selected = |node: &TreeEntry<P, E>| {
            let is_forked = node.exit_signal == Some(Signal::SIGCHLD);
            let is_kind = match kind {
                ChildKind::Forked => is_forked,
                ChildKind::Cloned => !is_forked,
                ChildKind::All => true,
            };
            let matches = match selector {
                WaitSelector::Any => true,
                WaitSelector::Process(id) => node.id == id,
                WaitSelector::Group(group) => node.group == group,
            };
            node.parent == parent && is_kind && matches
        };
        let mut result = ChildWait::NoChild;
        for (at, node) in self.nodes.iter_mut().enumerate().filter(|(_, node)| is_selected(node)) {
            match node.state {
                Lifecycle::Running(_) => {
                    if let Some(change) = node.change.filter(|&change| events.contains(change)) {
                        if removes {
                            node.change = None;
                        }
                        return ChildWait::Changed(node.id, change);
                    }
                    result = ChildWait::Pending;
                }
                Lifecycle::Zombie(_) if !events.exited => {}
                Lifecycle::Zombie(exit) => {
                    let id = node.id;
                    if removes {
                        self.nodes.remove(at);
                    }
                    return ChildWait::Exited(id, exit);
                }
            }
        }
        result
    }

    /// Records that a running process has stopped or continued. Returns its parent, to be notified.
    pub fn change(&mut self, id: u32, change: JobChange) -> Option<P> {
        let at = self.index(id)?;
        self.nodes[at].change = Some(change);
        self.running_process(self.nodes[at].parent)
    }

    /// The running process with this id; `Ok(None)` for a zombie.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn find(&self, id: u32) -> Result<Option<P>, Errno> {
        match &self.node(id).ok_or(Errno::ESRCH)?.state {
            Lifecycle::Running(process) => Ok(Some(process.clone())),
            Lifecycle::Zombie(_) => Ok(None),
        }
    }

    /// The id of the parent; 0 for a root.
    pub fn parent(&self, id: u32) -> u32 {
        self.node(id).map_or(0, |node| node.parent)
    }

    /// The process group of `id`.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn group(&self, id: u32) -> Result<u32, Errno> {
        self.node(id).map(|node| node.group).ok_or(Errno::ESRCH)
    }

    /// The session of `id`.
    ///
    /// # Errors
    /// `ESRCH`.
    pub fn session(&self, id: u32) -> Result<u32, Errno> {
        self.node(id).map(|node| node.session).ok_or(Errno::ESRCH)
    }

    /// The first process from `id` on, also a zombie.
    pub fn next(&self, id: u32) -> Option<u32> {
        self.nodes.get(self.nodes.partition_point(|node| node.id < id)).map(|node| node.id)
    }

    /// The information of the exit of a zombie.
    pub fn exit_of(&self, id: u32) -> Option<E> {
        match self.nodes[self.index(id)?].state {
            Lifecycle::Running(_) => None,
            Lifecycle::Zombie(exit) => Some(exit),
        }
    }

    /// The running processes that `selects` returns true for, given id, group and session.
    pub fn select(&self, selects: impl Fn(u32, u32, u32) -> bool) -> impl Iterator<Item = P> {
        self.nodes.iter().filter_map(move |node| match &node.state {
            Lifecycle::Running(process) if selects(node.id, node.group, node.session) => {
                Some(process.clone())
            }
            _ => None,
        })
    }

    /// The running processes below the root `id`, without itself.
    pub fn descendants(&self, id: u32) -> impl Iterator<Item = P> {
        let ids = self.nodes.iter().map(|node| node.id);
        let below = ids.filter(move |&node| node != id && self.root_of(node) == Some(id));
        below.filter_map(|node| self.running_process(node))
    }

    /// Marks that the process has executed a program.
    pub fn set_executed(&mut self, id: u32) {
        if let Some(at) = self.index(id) {
            self.nodes[at].has_executed = true;
        }
    }

    /// Moves process `id`, the caller or its child, to the process group `group`, or to a new one if that is
    /// its own id (`setpgid`).
    ///
    /// # Errors
    /// `ESRCH`, `EACCES`, `EPERM`, as specified for `setpgid`.
    pub fn set_group(&mut self, caller: u32, id: u32, group: u32) -> Result<(), Errno> {
        let session = self.session(caller)?;
        let at = self.index(id).ok_or(Errno::ESRCH)?;
        let node = &self.nodes[at];
        if id != caller {
            if node.parent != caller {
                return Err(Errno::ESRCH);
            }
            if node.session != session {
                return Err(Errno::EPERM);
            }
            if node.has_executed {
                return Err(Errno::EACCES);
            }
        }
        if node.session == id {
            return Err(Errno::EPERM);
        }
        let exists = || self.nodes.iter().any(|node| node.group == group && node.session == session);
        if group != id && !exists() {
            return Err(Errno::EPERM);
        }
        self.nodes[at].group = group;
        Ok(())
    }

    /// Makes the caller the leader of a new session and process group (`setsid`).
    ///
    /// # Errors
    /// `EPERM` if its process group exists already.
    pub fn start_session(&mut self, caller: u32) -> Result<(), Errno> {
        let at = self.index(caller).ok_or(Errno::ESRCH)?;
        if self.nodes.iter().any(|node| node.group == caller) {
            return Err(Errno::EPERM);
        }
        (self.nodes[at].group, self.nodes[at].session) = (caller, caller);
        Ok(())
    }

    fn index(&self, id: u32) -> Option<usize> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok()
    }

    fn node(&self, id: u32) -> Option<&TreeEntry<P, E>> {
        self.index(id).map(|at| &self.nodes[at])
    }

    fn running(&self, id: u32) -> Option<&TreeEntry<P, E>> {
        self.node(id).filter(|node| matches!(node.state, Lifecycle::Running(_)))
    }

    fn running_process(&self, id: u32) -> Option<P> {
        match &self.node(id)?.state {
            Lifecycle::Running(process) => Some(process.clone()),
            Lifecycle::Zombie(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::vec;
    use proptest::prelude::*;

    type NumberedTree = ProcessTree<u32, i32>;

    const ROOT: u32 = 1;
    const EXITS: WaitEvents = WaitEvents { exited: true, stopped: false, continued: false };

    #[test]
    fn stop_is_returned_by_one_wait_for_stops() {
        let mut tree = family();
        let stopped = JobChange::Stopped(Signal::SIGTSTP);
        let find = |tree: &mut NumberedTree, stopped, continued, removes| {
            let events = WaitEvents { exited: true, stopped, continued };
            tree.wait(ROOT, WaitSelector::Process(3), (ChildKind::All, events), removes)
        };
        assert_eq!(tree.change(3, stopped), Some(ROOT));
        assert_eq!(find(&mut tree, false, true, true), ChildWait::Pending);
        assert_eq!(find(&mut tree, true, false, false), ChildWait::Changed(3, stopped));
        assert_eq!(find(&mut tree, true, true, true), ChildWait::Changed(3, stopped));
        assert_eq!(find(&mut tree, true, true, true), ChildWait::Pending);
        tree.change(3, stopped);
        tree.change(3, JobChange::Continued);
        assert_eq!(find(&mut tree, true, false, true), ChildWait::Pending, "it runs again");
        assert_eq!(find(&mut tree, true, true, true), ChildWait::Changed(3, JobChange::Continued));
        tree.change(3, stopped);
        exit(&mut tree, 3);
        assert_eq!(find(&mut tree, true, true, false), ChildWait::Exited(3, 30));
        let stops = WaitEvents { exited: false, stopped: true, continued: false };
        let none = tree.wait(ROOT, WaitSelector::Process(3), (ChildKind::All, stops), true);
        assert_eq!(none, ChildWait::NoChild, "a zombie does not stop");
    }

    /// A root with the children 2 and 3; 4 is a child of 2.
    fn family() -> NumberedTree {
        let mut tree = NumberedTree::new(16);
        tree.add_root(ROOT, ROOT).unwrap();
        for (parent, id) in [(ROOT, 2), (ROOT, 3), (2, 4)] {
            tree.add_child(parent, id, id, Some(Signal::SIGCHLD)).unwrap();
        }
        tree
    }

    fn exit(tree: &mut NumberedTree, id: u32) -> Exit<u32> {
        tree.exit(id, id as i32 * 10, |_| false, |_, _| ()).unwrap()
    }

    fn wait(tree: &mut NumberedTree, parent: u32, selector: WaitSelector) -> ChildWait<i32> {
        tree.wait(parent, selector, (ChildKind::Forked, EXITS), true)
    }

    #[test]
    fn zombie_is_waited_for_once() {
        let mut tree = family();
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Any), ChildWait::Pending);
        let exited = exit(&mut tree, 3);
        assert_eq!(
            (exited.process, exited.parent, exited.adopter),
            (3, Some((ROOT, Some(Signal::SIGCHLD))), None)
        );
        assert_eq!(tree.find(3), Ok(None));
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Process(2)), ChildWait::Pending);
        let events = (ChildKind::Forked, EXITS);
        assert_eq!(tree.wait(ROOT, WaitSelector::Any, events, false), ChildWait::Exited(3, 30));
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Any), ChildWait::Exited(3, 30));
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Process(3)), ChildWait::NoChild);
        assert_eq!(tree.find(3), Err(Errno::ESRCH));
        assert_eq!(wait(&mut tree, 2, WaitSelector::Process(3)), ChildWait::NoChild, "not its child");
    }

    #[test]
    fn root_adopts_children_and_zombies() {
        let mut tree = family();
        exit(&mut tree, 4);
        let exited = exit(&mut tree, 2);
        assert_eq!(exited.adopter, Some(ROOT), "of the zombie 4");
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Process(4)), ChildWait::Exited(4, 40));
        let mut tree = family();
        let adopted = core::cell::Cell::new(None);
        let exited = tree.exit(2, 20, |_| false, |&child, parent| adopted.set(Some((child, parent))));
        assert_eq!((exited.unwrap().adopter, adopted.get()), (None, Some((4, ROOT))));
        assert_eq!((tree.parent(4), tree.parent(ROOT)), (ROOT, 0));
    }

    #[test]
    fn child_of_a_parent_that_ignores_it_vanishes() {
        let mut tree = family();
        exit(&mut tree, 4);
        let exited = tree.exit(2, 20, |&parent| parent == ROOT, |_, _| ()).unwrap();
        assert_eq!(exited.parent, Some((ROOT, Some(Signal::SIGCHLD))), "it is notified nevertheless");
        assert_eq!((tree.find(2), tree.find(4)), (Err(Errno::ESRCH), Err(Errno::ESRCH)));
    }

    #[test]
    fn exit_of_a_root_leaves_no_zombies() {
        let mut tree = family();
        exit(&mut tree, 3);
        assert_eq!(tree.descendants(ROOT).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(exit(&mut tree, ROOT).parent, None);
        assert_eq!((tree.find(ROOT), tree.find(3)), (Err(Errno::ESRCH), Err(Errno::ESRCH)));
        assert_eq!((tree.find(2), tree.find(4)), (Ok(Some(2)), Ok(Some(4))));
        exit(&mut tree, 4);
        exit(&mut tree, 2);
        assert!(tree.nodes.is_empty());
    }

    #[test]
    fn kind_of_a_child_is_its_exit_signal() {
        let mut tree = family();
        tree.add_child(ROOT, 5, 5, None).unwrap();
        exit(&mut tree, 5);
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Process(5)), ChildWait::NoChild);
        let mut by_kind = |kind| tree.wait(ROOT, WaitSelector::Process(5), (kind, EXITS), false);
        assert_eq!([by_kind(ChildKind::Cloned), by_kind(ChildKind::All)], [ChildWait::Exited(5, 50); 2]);
    }

    #[test]
    fn number_of_processes_is_limited() {
        let mut tree = NumberedTree::new(2);
        tree.add_root(1, 1).unwrap();
        assert_eq!(tree.add_child(7, 2, 2, None), Err(Errno::ESRCH));
        tree.add_child(1, 2, 2, None).unwrap();
        assert_eq!(tree.add_child(1, 3, 3, None), Err(Errno::EAGAIN));
        exit(&mut tree, 2);
        assert_eq!(tree.add_child(1, 3, 3, None), Err(Errno::EAGAIN), "zombies count");
        assert_eq!(tree.wait(1, WaitSelector::Any, (ChildKind::All, EXITS), true), ChildWait::Exited(2, 20));
        tree.add_child(1, 3, 3, None).unwrap();
        assert_eq!(tree.remove(3), Some(3));
        assert_eq!(tree.find(3), Err(Errno::ESRCH));
    }

    #[test]
    fn groups_follow_setpgid() {
        let mut tree = family();
        assert_eq!((tree.group(4), tree.session(4)), (Ok(ROOT), Ok(ROOT)));
        assert_eq!(tree.set_group(ROOT, 4, 4), Err(Errno::ESRCH), "a grandchild");
        assert_eq!(tree.set_group(ROOT, ROOT, 2), Err(Errno::EPERM), "a session leader");
        assert_eq!(tree.set_group(ROOT, 3, 9), Err(Errno::EPERM), "no such group");
        tree.set_group(ROOT, 2, 2).unwrap();
        tree.set_group(ROOT, 3, 2).unwrap();
        assert_eq!(tree.select(|_, group, _| group == 2).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Group(7)), ChildWait::NoChild);
        exit(&mut tree, 3);
        assert_eq!(wait(&mut tree, ROOT, WaitSelector::Group(2)), ChildWait::Exited(3, 30));
        tree.set_executed(2);
        assert_eq!(tree.set_group(ROOT, 2, ROOT), Err(Errno::EACCES));
        tree.set_group(2, 2, ROOT).unwrap();
        assert_eq!(tree.set_group(9, 9, 9), Err(Errno::ESRCH));
    }

    #[test]
    fn sessions_follow_setsid() {
        let mut tree = family();
        assert_eq!(tree.start_session(ROOT), Err(Errno::EPERM));
        tree.start_session(2).unwrap();
        assert_eq!((tree.group(2), tree.session(2), tree.session(4)), (Ok(2), Ok(2), Ok(ROOT)));
        assert_eq!(tree.set_group(ROOT, 2, ROOT), Err(Errno::EPERM), "another session");
        assert_eq!(tree.set_group(2, 4, 2), Err(Errno::EPERM));
    }

    #[derive(Clone, Debug)]
    enum TreeOp {
        Fork(usize),
        Exit(usize),
        Wait(usize),
    }

    fn op() -> impl Strategy<Value = TreeOp> {
        let process = 0usize..10;
        prop_oneof![
            process.clone().prop_map(TreeOp::Fork),
            process.clone().prop_map(TreeOp::Exit),
            process.prop_map(TreeOp::Wait)
        ]
    }

    proptest! {
        /// Every exit is waited for once, by the parent or the root, and no process is lost.
        #[test]
        fn every_exit_reaches_one_wait(ops in prop::collection::vec(op(), 1..60)) {
            let mut tree = NumberedTree::new(100);
            tree.add_root(ROOT, ROOT).unwrap();
            let (mut running, mut zombies) = (vec![ROOT], BTreeMap::new());
            let mut last = ROOT;
            for op in ops {
                match op {
                    TreeOp::Fork(parent) => {
                        let parent = running[parent % running.len()];
                        last += 1;
                        tree.add_child(parent, last, last, Some(Signal::SIGCHLD)).unwrap();
                        running.push(last);
                    }
                    TreeOp::Exit(process) if running.len() > 1 => {
                        let id = running.remove(1 + process % (running.len() - 1));
                        prop_assert_eq!(exit(&mut tree, id).process, id);
                        zombies.insert(id, id as i32 * 10);
                    }
                    TreeOp::Wait(parent) => {
                        let parent = running[parent % running.len()];
                        if let ChildWait::Exited(id, exit) = wait(&mut tree, parent, WaitSelector::Any) {
                            prop_assert_eq!(zombies.remove(&id), Some(exit));
                        }
                    }
                    TreeOp::Exit(_) => {}
                }
                let known: BTreeSet<u32> = tree.nodes.iter().map(|node| node.id).collect();
                let expected: BTreeSet<u32> = running.iter().chain(zombies.keys()).copied().collect();
                prop_assert_eq!(known, expected);
                for node in tree.nodes.iter().filter(|node| node.id != ROOT) {
                    prop_assert!(running.contains(&node.parent), "{} has no parent", node.id);
                }
            }
        }
    }
}
