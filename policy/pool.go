package policy

// pool is a set of servers, by their indexes in a list. Its order depends on its history.
type pool struct {
	members []int32
	places  []int32 // of a server among the members, plus 1; 0: it is none
}

// newPool makes it of those servers of the list that belong.
func newPool(list []*Server, belongs func(*Server) bool) pool {
	p := pool{make([]int32, 0, len(list)), make([]int32, len(list))}
	for _, s := range list {
		p.set(s.at, belongs(s))
	}
	return p
}

// set makes a server a member or not and says whether it was the opposite.
func (p *pool) set(at int, is bool) bool {
	place := p.places[at]
	if was := place > 0; was == is {
		return false
	}
	if is {
		p.members = append(p.members, int32(at))
		p.places[at] = int32(len(p.members))
		return true
	}
	n := len(p.members) - 1
	last := p.members[n]
	p.members[place-1], p.places[last] = last, place
	p.members, p.places[at] = p.members[:n], 0
	return true
}
