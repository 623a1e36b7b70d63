package nft

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// From linux/netfilter/nf_tables.h; golang.org/x/sys/unix lacks them.
const (
	tableOwner        = 0x2   // NFT_TABLE_F_OWNER
	setConcat         = 0x80  // NFT_SET_CONCAT
	setExpressions    = 0x100 // NFT_SET_EXPR
	nftaDescConcat    = 2     // NFTA_SET_DESC_CONCAT
	nftaFieldLen      = 1     // NFTA_SET_FIELD_LEN
	nftaSetExprs      = 18    // NFTA_SET_EXPRESSIONS
	nftaElemKeyEnd    = 10    // NFTA_SET_ELEM_KEY_END
	nftaElemExprs     = 11    // NFTA_SET_ELEM_EXPRESSIONS
	netdevIngress     = 0     // NF_NETDEV_INGRESS
	maxElementsLength = 32 << 10
)

// ownTable has the kernel make a table, unless it is there, that vanishes with the socket.
func (b *batch) ownTable() {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "a table that its socket owns (Linux 5.12)")
	b.u32(unix.NFTA_TABLE_FLAGS, tableOwner)
}

func (b *batch) deleteTable() { b.message(unix.NFT_MSG_DELTABLE, 0, "the table") }

// chain makes a chain that others jump to.
func (b *batch) chain(name string) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "chain "+name)
	b.text(unix.NFTA_CHAIN_NAME, name)
}

// ingressChain is the name of an interface's own chain. No other chain is named like this.
func ingressChain(device string) string { return "ingress_" + device }

// ingressName is what errors call it.
func ingressName(device string) string { return "interface " + device }

// ingress makes the chain that packets go through which come by a device. Those with a lower priority come before.
func (b *batch) ingress(device string, priority int32) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, ingressName(device))
	b.text(unix.NFTA_CHAIN_NAME, ingressChain(device))
	hook := b.nest(unix.NFTA_CHAIN_HOOK)
	b.u32(unix.NFTA_HOOK_HOOKNUM, netdevIngress)
	b.u32(unix.NFTA_HOOK_PRIORITY, uint32(priority))
	b.text(unix.NFTA_HOOK_DEV, device)
	b.end(hook)
	b.text(unix.NFTA_CHAIN_TYPE, "filter")
}

func (b *batch) deleteIngress(device string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, ingressName(device))
	b.text(unix.NFTA_CHAIN_NAME, ingressChain(device))
}

// rule appends a rule to a chain. Errors of the kernel name what it is.
func (b *batch) rule(chain, what string, expressions ...expression) {
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "rule: "+what)
	b.text(unix.NFTA_RULE_CHAIN, chain)
	list := b.nest(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range expressions {
		e(b)
	}
	b.end(list)
}

// set is a table of keys, each a concatenation of fields that are padded to 4 bytes, and, for a map, of what belongs to them.
type set struct {
	name   string
	key    []field
	data   []field  // of a map: what is found
	size   int      // how many elements it may have
	ranges bool     // elements are intervals, in each field
	counts []string // expressions that each element has, which run when it is found
}

// field is a part of a key. Its type is for people that look with nft.
type field struct{ bytes, typ int }

// Fields, with the numbers that nft has for their types.
var (
	fieldIPv4  = field{4, 7}
	fieldIPv6  = field{16, 8}
	fieldProto = field{1, 12}
	fieldPort  = field{2, 13}
	fieldMark  = field{4, 19} // any 4 bytes
	fieldIndex = field{4, 20} // an interface's
)

// length is that of a concatenation, and typ is its type, as nft calculates it: for five fields at most.
func length(fields []field) (n int, typ uint32) {
	for _, f := range fields {
		n += (f.bytes + 3) &^ 3
		typ = typ<<6 | uint32(f.typ)
	}
	return n, typ
}

// set makes a set. id tells those of one batch apart.
func (b *batch) set(id uint32, s *set) {
	flags := uint32(0)
	keyLength, keyType := length(s.key)
	dataLength, dataType := length(s.data)
	if s.ranges {
		flags |= unix.NFT_SET_INTERVAL | setConcat
	}
	if dataLength > 0 {
		flags |= unix.NFT_SET_MAP
	}
	if len(s.counts) > 0 {
		flags |= setExpressions
	}
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "set "+s.name)
	b.text(unix.NFTA_SET_NAME, s.name)
	b.u32(unix.NFTA_SET_FLAGS, flags)
	b.u32(unix.NFTA_SET_KEY_TYPE, keyType)
	b.u32(unix.NFTA_SET_KEY_LEN, uint32(keyLength))
	if dataLength > 0 {
		b.u32(unix.NFTA_SET_DATA_TYPE, dataType)
		b.u32(unix.NFTA_SET_DATA_LEN, uint32(dataLength))
	}
	b.u32(unix.NFTA_SET_ID, id)
	desc := b.nest(unix.NFTA_SET_DESC)
	b.u32(unix.NFTA_SET_DESC_SIZE, uint32(s.size))
	if s.ranges {
		fields := b.nest(nftaDescConcat)
		for _, f := range s.key {
			one := b.nest(unix.NFTA_LIST_ELEM)
			b.u32(nftaFieldLen, uint32(f.bytes))
			b.end(one)
		}
		b.end(fields)
	}
	b.end(desc)
	if len(s.counts) > 0 {
		list := b.nest(nftaSetExprs)
		for _, name := range s.counts {
			b.expression(unix.NFTA_LIST_ELEM, name, func() {}) // as they start
		}
		b.end(list)
	}
}

// elements adds to a set that is made in the same batch. A key is of the set's length, or, with ranges, twice that: from and to.
func (b *batch) elements(id uint32, s *set, keys [][]byte) {
	n, _ := length(s.key)
	for len(keys) > 0 {
		b.message(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "elements of set "+s.name)
		b.text(unix.NFTA_SET_ELEM_LIST_SET, s.name)
		b.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
		list := b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for len(keys) > 0 && len(b.buf)-list < maxElementsLength {
			one := b.nest(unix.NFTA_LIST_ELEM)
			b.data(unix.NFTA_SET_ELEM_KEY, keys[0][:n]...)
			if s.ranges {
				b.data(nftaElemKeyEnd, keys[0][n:]...)
			}
			b.end(one)
			keys = keys[1:]
		}
		b.end(list)
	}
}

// tables are the names of all in the socket's namespace that are for packets as devices bring them.
func (s *socket) tables() (names []string, err error) {
	var b batch
	b.begin("", s.next)
	b.header(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, unix.NFPROTO_NETDEV, 0)
	err = s.dump(&b, func(m message) {
		for typ, value := range m.attributes() {
			if typ == unix.NFTA_TABLE_NAME {
				names = append(names, unix.ByteSliceToString(value))
			}
		}
	})
	if err != nil {
		return nil, explain(err, "list of tables")
	}
	return names, nil
}

// apply commits a batch whose failure is the end of it, and says what failed.
func (s *socket) apply(b *batch) error {
	failures, err := s.commit(b)
	if err != nil || len(failures) == 0 {
		return err
	}
	return explain(failures[0].err, b.what(failures[0].message))
}

// hook commits what write writes about some interfaces, without those that are not there.
func (s *socket) hook(b *batch, interfaces []string, write func(interfaces []string)) error {
	interfaces = slices.Compact(slices.Sorted(slices.Values(interfaces)))
	for {
		write(interfaces)
		failures, err := s.commit(b)
		if err != nil || len(failures) == 0 {
			return err
		}
		var absent []string
		for _, f := range failures {
			if errors.Is(f.err, unix.ENOENT) || errors.Is(f.err, unix.ENODEV) {
				absent = append(absent, b.what(f.message))
			}
		}
		there := slices.DeleteFunc(slices.Clone(interfaces), func(name string) bool { return slices.Contains(absent, ingressName(name)) })
		if len(there) == len(interfaces) {
			return explain(failures[0].err, b.what(failures[0].message))
		}
		interfaces = there
	}
}

// what is the name of a message.
func (b *batch) what(message int) string {
	if message < len(b.about) && b.about[message] != "" {
		return b.about[message]
	}
	return "transaction"
}

// explain says what to do about the kernel's answer.
func explain(err error, what string) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: nf_tables: %s: %w: it takes CAP_NET_ADMIN in the network namespace: run as root, or under `unshare -Urn`", ErrUnavailable, what, err)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: nf_tables: %s: %w: it takes Linux 5.12 with CONFIG_NF_TABLES_NETDEV and CONFIG_NFT_FWD_NETDEV: run `modprobe -a nf_tables nft_fwd_netdev`", ErrUnavailable, what, err)
	}
	return fmt.Errorf("nf_tables: %s: %w", what, err)
}
