package policy

// load is what a server would bear, as a fraction. Fractions are compared crosswise: a division would make
// unequal ones equal. For a server that may not be picked it is infinite, with a weight of 0.
type load struct{ amount, weight int64 }

var infinite = load{1, 0}

func (l load) less(m load) bool { return l.amount*m.weight < m.amount*l.weight }

// tournament knows the least loaded server of a list; of equal ones the first. It is a complete binary tree
// in an array as heights is, whose nodes have the index of the least loaded server below them.
type tournament struct {
	loads   []load // of each leaf; infinite behind the list's end
	winners []int32
}

func newTournament(list []*Server, measure func(*Server) load) tournament {
	n := leaves(len(list))
	t := tournament{loads: make([]load, n), winners: make([]int32, 2*n)}
	for i := range n {
		t.loads[i], t.winners[n+i] = infinite, int32(i)
	}
	for _, s := range list {
		t.loads[s.at] = measure(s)
	}
	for i := n - 1; i > 0; i-- {
		t.winners[i] = t.play(i)
	}
	return t
}

// play finds the winner of a node from those of its children.
func (t *tournament) play(i int) int32 {
	first, second := t.winners[2*i], t.winners[2*i+1]
	if t.loads[second].less(t.loads[first]) {
		return second
	}
	return first
}

// set gives a server its load.
func (t *tournament) set(at int, l load) {
	if t.loads[at] == l {
		return
	}
	t.loads[at] = l
	for i := (len(t.loads) + at) / 2; i > 0; i /= 2 {
		winner := t.play(i)
		if winner == t.winners[i] && winner != int32(at) {
			return // the games above have the players and loads that they had
		}
		t.winners[i] = winner
	}
}

// least is the index of the least loaded server, -1 if none may be picked.
func (t *tournament) least() int {
	if at := t.winners[1]; t.loads[at] != infinite {
		return int(at)
	}
	return -1
}
