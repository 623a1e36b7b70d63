package policy

import "math/bits"

// heights is a weight for each server of a list, 0 for one that is unavailable, under which the next server
// of some weight is found without a walk. It is a complete binary tree in an array: the root is at 1, the
// children of i are at 2i and 2i+1, the second half are the leaves; a node has the largest weight below it.
type heights []int

func newHeights(list []*Server) heights {
	h := make(heights, 2*leaves(len(list)))
	for _, s := range list {
		h[len(h)/2+s.at] = height(s)
	}
	for i := len(h)/2 - 1; i > 0; i-- {
		h[i] = max(h[2*i], h[2*i+1])
	}
	return h
}

// leaves is how many leaves the tree over a list of n has: a power of two, at least 1.
func leaves(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

func height(s *Server) int {
	if !s.available() {
		return 0
	}
	return s.Weight
}

// changed takes over what the server's weight and availability are now.
func (h heights) changed(s *Server) {
	i := len(h)/2 + s.at
	if to := height(s); h[i] != to {
		h[i] = to
		for i /= 2; i > 0; i /= 2 {
			h[i] = max(h[2*i], h[2*i+1])
		}
	}
}

// highest is the largest weight.
func (h heights) highest() int { return h[1] }

// next finds the first server at from or behind it whose weight is at least the one given, -1 if there is
// none. The weight is above 0.
func (h heights) next(from, weight int) int {
	i := len(h)/2 + from
	if i >= len(h) {
		return -1
	}
	for h[i] < weight {
		if i = i >> bits.TrailingZeros(^uint(i)); i == 0 { // from a right child up until a left one
			return -1
		}
		i++
	}
	for i < len(h)/2 {
		if i *= 2; h[i] < weight {
			i++
		}
	}
	return i - len(h)/2
}
