package policy

import (
	"hash/fnv"
	"math/bits"
	"math/rand/v2"
)

// random is a scheduler's own generator. Services differ, but one does the same each time that it runs.
type random struct{ rand.PCG }

func newRandom(s *Spec) random {
	seed := fnv.New64a()
	for _, p := range s.places() {
		seed.Write([]byte(p.String()))
	}
	return random{*rand.NewPCG(seed.Sum64(), 0)}
}

// below draws a number below n, which is above 0.
func (r *random) below(n uint64) uint64 {
	high, _ := bits.Mul64(r.Uint64(), n)
	return high
}

// lighter is the server with less overhead per weight, a if they are equal.
func lighter(a, b *Server) *Server {
	if weightedConnections(b).less(weightedConnections(a)) {
		return b
	}
	return a
}

// twoChoices is p2c, the power of two choices: of two available servers that it draws, it picks the one with
// less overhead per weight. That comes near to wlc, and however many servers there are, it takes the same
// time and does not send all new clients at once to the one that has just come.
type twoChoices struct {
	random random
	up     pool
}

func (t *twoChoices) start(list []*Server)     { t.up = newPool(list, (*Server).available) }
func (t *twoChoices) update(_, list []*Server) { t.start(list) }
func (t *twoChoices) changed(s *Server)        { t.up.set(s.at, s.available()) }

func (t *twoChoices) pick(list []*Server, _ Client) *Server {
	for {
		a, b := t.draw(list)
		if a == nil {
			return nil
		}
		if a.available() && b.available() {
			return lighter(a, b)
		}
		t.changed(a) // the index is behind: see Server.available
		t.changed(b)
	}
}

// draw gives two servers, the same one twice if there is no other, or nil if there is none.
func (t *twoChoices) draw(list []*Server) (a, b *Server) {
	up := t.up.members
	n := uint64(len(up))
	switch n {
	case 0:
		return nil, nil
	case 1:
		return list[up[0]], list[up[0]]
	}
	draws := t.random.Uint64() // the halves are good for one draw each
	i, j := draws>>32*n>>32, draws&(1<<32-1)*(n-1)>>32
	if j >= i {
		j++
	}
	return list[up[i]], list[up[j]]
}

// twoWeighted is the kernel's twos: of two available servers that it draws by weight, perhaps the same one
// twice, it picks the one with less overhead per weight.
type twoWeighted struct {
	random random
	// sums is a complete binary tree in an array as heights is, whose nodes have the sum of the weights of the
	// available servers below them.
	sums []uint64
}

func (t *twoWeighted) start(list []*Server) {
	t.sums = make([]uint64, 2*leaves(len(list)))
	for _, s := range list {
		t.sums[len(t.sums)/2+s.at] = uint64(height(s))
	}
	for i := len(t.sums)/2 - 1; i > 0; i-- {
		t.sums[i] = t.sums[2*i] + t.sums[2*i+1]
	}
}

func (t *twoWeighted) update(_, list []*Server) { t.start(list) }

func (t *twoWeighted) changed(s *Server) {
	i := len(t.sums)/2 + s.at
	if to := uint64(height(s)); t.sums[i] != to {
		for by := to - t.sums[i]; i > 0; i /= 2 {
			t.sums[i] += by // less is more than enough to wrap around
		}
	}
}

func (t *twoWeighted) pick(list []*Server, _ Client) *Server {
	for t.sums[1] > 0 {
		a, b := list[t.draw()], list[t.draw()]
		if a.available() && b.available() {
			return lighter(a, b)
		}
		t.changed(a) // the index is behind: see Server.available
		t.changed(b)
	}
	return nil
}

// draw gives the index of a server, each as likely as its weight says.
func (t *twoWeighted) draw() int {
	rest, i := t.random.below(t.sums[1]), 1
	for i < len(t.sums)/2 {
		if i *= 2; rest >= t.sums[i] {
			rest -= t.sums[i]
			i++
		}
	}
	return i - len(t.sums)/2
}
