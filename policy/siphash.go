package policy

import "math/bits"

// siphash is SipHash-1-3 of one little-endian word, low half of the result, under a key of twice the same
// number: the hash of the kernel's mh, which takes it to spread and not for secrecy.
func siphash(word uint32, key uint64) uint32 {
	v0, v1 := key^0x736f6d6570736575, key^0x646f72616e646f6d
	v2, v3 := key^0x6c7967656e657261, key^0x7465646279746573
	last := 4<<56 | uint64(word) // the length in bytes is on top
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last
	v2 ^= 0xff
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	return uint32(v0 ^ v1 ^ v2 ^ v3)
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v2 += v3
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 = bits.RotateLeft64(v0, 32) + v3
	v2 += v1
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	return v0, v1, bits.RotateLeft64(v2, 32), v3
}
