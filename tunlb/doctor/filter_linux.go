package doctor

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var (
	filterFamilies = map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_BRIDGE: "bridge"}
	filterHooks    = []string{"prerouting", "input", "forward", "output", "postrouting"}
)

// readChains lists the packet filter's chains and their rules, as far as this process may see them.
func (s *space) readChains() {
	list, err := askFilter(unix.NFT_MSG_GETCHAIN, 0)
	if err != nil {
		return
	}
	s.guarded = map[string]bool{}
	for _, m := range list {
		if c, ok := decodeChain(m); ok {
			s.chains = append(s.chains, c)
		}
		for _, device := range guardedBy(m) {
			s.guarded[device] = true
		}
	}
	if len(s.chains) > 0 {
		s.readFilterRules()
	}
	for _, family := range []string{"ip", "ip6"} { // of the older iptables
		names, _ := os.ReadFile(fmt.Sprintf("/proc/thread-self/net/%s_tables_names", family))
		for name := range strings.Lines(string(names)) {
			s.chains = append(s.chains, chain{family: family, table: strings.TrimSpace(name), name: "(iptables-legacy)", hook: "forward", legacy: true})
		}
	}
}

// askFilter has the kernel list something, without changing it.
func askFilter(what int, family uint8, attrs ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|what, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family})
	for _, a := range attrs {
		req.AddData(a)
	}
	list, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return list, complete(err)
}

// attributes are those of a message or of a nested attribute, by type.
func attributes(b []byte) map[uint16][]byte {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	m := map[uint16][]byte{}
	for _, a := range list {
		m[a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = a.Value
	}
	return m
}

// elements are the items of a list.
func elements(b []byte) (items [][]byte) {
	list, _ := nl.ParseRouteAttr(b)
	for _, a := range list {
		items = append(items, a.Value)
	}
	return items
}

// number32 is a number of netfilter's, which are big-endian; 0 if it is missing.
func number32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// filterHeader is the length of struct nfgenmsg.
const filterHeader = 4

// decodeChain is false for a chain of a family that is of no concern.
func decodeChain(m []byte) (c chain, ok bool) {
	if len(m) < filterHeader {
		return c, false
	}
	c.family = filterFamilies[m[0]]
	attrs := attributes(m[filterHeader:])
	c.table, c.name = nl.BytesToString(attrs[unix.NFTA_CHAIN_TABLE]), nl.BytesToString(attrs[unix.NFTA_CHAIN_NAME])
	if policy, has := attrs[unix.NFTA_CHAIN_POLICY]; has {
		c.drop = number32(policy) == 0
	}
	if hook, has := attrs[unix.NFTA_CHAIN_HOOK]; has {
		if n := int(number32(attributes(hook)[unix.NFTA_HOOK_HOOKNUM])); n < len(filterHooks) {
			c.hook = filterHooks[n]
		}
	}
	return c, c.family != ""
}

// guardedBy are the devices that a chain of tunlb's own sees the packets of, before the kernel does (package stack/nft).
func guardedBy(m []byte) (devices []string) {
	if len(m) < filterHeader || m[0] != unix.NFPROTO_NETDEV {
		return nil
	}
	attrs := attributes(m[filterHeader:])
	hook := attributes(attrs[unix.NFTA_CHAIN_HOOK])
	if !strings.HasPrefix(nl.BytesToString(attrs[unix.NFTA_CHAIN_TABLE]), "tunlb_guard_") || hook == nil {
		return nil
	}
	if device, has := hook[unix.NFTA_HOOK_DEV]; has {
		devices = append(devices, nl.BytesToString(device))
	}
	const severalDevices = 4 // NFTA_HOOK_DEVS
	for _, device := range elements(hook[severalDevices]) {
		devices = append(devices, nl.BytesToString(device))
	}
	return devices
}

// readFilterRules adds the rules to their chains.
func (s *space) readFilterRules() {
	list, err := askFilter(unix.NFT_MSG_GETRULE, 0)
	if err != nil {
		return
	}
	names := s.deviceNames()
	for _, m := range list {
		if len(m) < filterHeader {
			continue
		}
		attrs := attributes(m[filterHeader:])
		of := chain{family: filterFamilies[m[0]], table: nl.BytesToString(attrs[unix.NFTA_RULE_TABLE])}
		c := s.chainNamed(&of, nl.BytesToString(attrs[unix.NFTA_RULE_CHAIN]))
		if c == nil {
			continue
		}
		d := ruleDecoder{family: m[0], table: of.table, devices: names, registers: map[uint32]condition{}}
		for _, e := range elements(attrs[unix.NFTA_RULE_EXPRESSIONS]) {
			expression := attributes(e)
			d.expression(nl.BytesToString(expression[unix.NFTA_EXPR_NAME]), attributes(expression[unix.NFTA_EXPR_DATA]))
		}
		c.rules = append(c.rules, d.rules()...)
	}
}

// ruleDecoder follows what a rule loads into the registers, and what it asks of them.
type ruleDecoder struct {
	family    uint8
	table     string
	devices   map[int]string
	registers map[uint32]condition // what was loaded, nothing asked yet
	rule      filterRule
	verdicts  []filterRule // one for each element of a verdict map, instead of the rule's own
}

// rules are the rule, or those that it comes to.
func (d *ruleDecoder) rules() []filterRule {
	if d.verdicts != nil {
		return d.verdicts
	}
	return []filterRule{d.rule}
}

func (d *ruleDecoder) asks(c condition) { d.rule.conditions = append(d.rule.conditions, c) }

// expression takes one part of the rule.
func (d *ruleDecoder) expression(name string, a map[uint16][]byte) {
	switch name {
	case "meta":
		if _, writes := a[unix.NFTA_META_SREG]; writes {
			return
		}
		d.load(a[unix.NFTA_META_DREG], map[uint32]string{
			unix.NFT_META_IIFNAME: "iif", unix.NFT_META_OIFNAME: "oif", unix.NFT_META_IIF: "iif", unix.NFT_META_OIF: "oif",
		}[number32(a[unix.NFTA_META_KEY])])
	case "ct":
		if _, reads := a[unix.NFTA_CT_DREG]; !reads {
			return
		}
		what := ""
		if number32(a[unix.NFTA_CT_KEY]) == unix.NFT_CT_STATE {
			what = "state"
		}
		d.load(a[unix.NFTA_CT_DREG], what)
	case "fib":
		what := ""
		if flags := number32(a[unix.NFTA_FIB_FLAGS]); flags&unix.NFTA_FIB_F_SADDR != 0 && flags&unix.NFTA_FIB_F_IIF != 0 {
			what = "rpf"
		}
		d.load(a[unix.NFTA_FIB_DREG], what)
	case "bitwise":
		c := d.registers[number32(a[unix.NFTA_BITWISE_SREG])]
		if mask := attributes(a[unix.NFTA_BITWISE_MASK])[unix.NFTA_DATA_VALUE]; c.what == "state" && len(mask) == 4 {
			c.states = binary.NativeEndian.Uint32(mask)
		} else {
			c.what = ""
		}
		d.registers[number32(a[unix.NFTA_BITWISE_DREG])] = c
	case "cmp":
		d.compare(a)
	case "lookup":
		d.lookup(a)
	case "immediate":
		if number32(a[unix.NFTA_IMMEDIATE_DREG]) == 0 {
			d.rule.verdict, d.rule.target = verdictOf(a[unix.NFTA_IMMEDIATE_DATA])
		}
	case "reject":
		d.rule.verdict = "drop"
	case "match":
		d.rule.xtables = true
		d.asks(matchOf(nl.BytesToString(a[unix.NFTA_MATCH_NAME]), a[unix.NFTA_MATCH_INFO]))
	case "target":
		d.rule.xtables = true
		if nl.BytesToString(a[unix.NFTA_TARGET_NAME]) == "REJECT" {
			d.rule.verdict = "drop"
		}
	case "counter", "log", "masq", "nat", "redir", "notrack", "flow_offload", "objref", "dup", "last":
		// They ask for nothing.
	case "payload", "exthdr", "socket", "rt", "osf", "numgen", "hash", "xfrm", "tunnel":
		d.load(firstRegister(a), "")
	default: // limit, quota, connlimit, range, byteorder and others
		d.asks(condition{})
	}
}

// firstRegister is where most expressions load to.
func firstRegister(a map[uint16][]byte) []byte { return a[1] }

func (d *ruleDecoder) load(register []byte, what string) {
	d.registers[number32(register)] = condition{what: what}
}

// compare is an expression cmp.
func (d *ruleDecoder) compare(a map[uint16][]byte) {
	const equal, unequal = 0, 1
	c := d.registers[number32(a[unix.NFTA_CMP_SREG])]
	value := attributes(a[unix.NFTA_CMP_DATA])[unix.NFTA_DATA_VALUE]
	op := number32(a[unix.NFTA_CMP_OP])
	zero := len(bytes.Trim(value, "\x00")) == 0
	switch {
	case op != equal && op != unequal:
		c = condition{}
	case c.what == "iif" || c.what == "oif":
		c.names, c.not = []string{d.device(value)}, op == unequal
	case c.what == "state" && zero: // masked, and then not nothing
		c.not = op == equal
	case c.what == "state" && len(value) == 4 && c.states == 0: // not masked
		c.states, c.not = binary.NativeEndian.Uint32(value), op == unequal
	case c.what == "rpf":
		c.not = zero != (op == equal)
	default:
		c = condition{}
	}
	d.asks(c)
}

// device reads a name, all of it or a beginning, or a number.
func (d *ruleDecoder) device(value []byte) string {
	switch {
	case len(value) == 4 && bytes.IndexByte(value, 0) >= 0:
		if name, known := d.devices[int(binary.NativeEndian.Uint32(value))]; known {
			return name
		}
	case len(value) < unix.IFNAMSIZ && bytes.IndexByte(value, 0) < 0:
		return string(value) + "*"
	}
	return nl.BytesToString(value)
}

// lookup is one in a set, or in a map of verdicts.
func (d *ruleDecoder) lookup(a map[uint16][]byte) {
	const inverted = 1
	c := d.registers[number32(a[unix.NFTA_LOOKUP_SREG])]
	dreg, isMap := a[unix.NFTA_LOOKUP_DREG]
	known := c.what == "iif" || c.what == "oif" || c.what == "state"
	var items []map[uint16][]byte
	if known {
		items = d.setElements(nl.BytesToString(a[unix.NFTA_LOOKUP_SET]))
	}
	if isMap && number32(dreg) == 0 {
		d.verdicts = []filterRule{}
		for _, item := range items {
			verdict, target := verdictOf(item[unix.NFTA_SET_ELEM_DATA])
			one := d.add(c, item)
			d.verdicts = append(d.verdicts, filterRule{conditions: append(d.rule.conditions[:len(d.rule.conditions):len(d.rule.conditions)], one), verdict: verdict, target: target})
		}
		if !known { // some of them may accept it
			d.verdicts = []filterRule{{conditions: []condition{{}}, verdict: "accept"}}
		}
		return
	}
	if isMap { // into a register
		d.load(dreg, "")
		return
	}
	for _, item := range items {
		c = d.add(c, item)
	}
	if !known {
		c = condition{}
	}
	c.not = number32(a[unix.NFTA_LOOKUP_FLAGS])&inverted != 0
	d.asks(c)
}

// add makes a condition hold for an element of a set, too.
func (d *ruleDecoder) add(c condition, item map[uint16][]byte) condition {
	value := attributes(item[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE]
	switch {
	case c.what == "state" && len(value) == 4:
		c.states |= binary.NativeEndian.Uint32(value)
	case c.what == "iif" || c.what == "oif":
		c.names = append(c.names[:len(c.names):len(c.names)], d.device(value))
	}
	return c
}

func (d *ruleDecoder) setElements(set string) (items []map[uint16][]byte) {
	list, err := askFilter(unix.NFT_MSG_GETSETELEM, d.family,
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(d.table)), nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set)))
	if err != nil {
		return nil
	}
	for _, m := range list {
		if len(m) >= filterHeader {
			for _, e := range elements(attributes(m[filterHeader:])[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
				items = append(items, attributes(e))
			}
		}
	}
	return items
}

// verdictOf reads a verdict's data.
func verdictOf(data []byte) (verdict, target string) {
	v := attributes(attributes(data)[unix.NFTA_DATA_VERDICT])
	switch int32(number32(v[unix.NFTA_VERDICT_CODE])) {
	case 0:
		return "drop", ""
	case 1:
		return "accept", ""
	case unix.NFT_JUMP:
		return "jump", nl.BytesToString(v[unix.NFTA_VERDICT_CHAIN])
	case unix.NFT_GOTO:
		return "goto", nl.BytesToString(v[unix.NFTA_VERDICT_CHAIN])
	case unix.NFT_RETURN:
		return "return", ""
	}
	return "", ""
}

// matchOf reads a match of iptables': the states of conntrack (struct xt_conntrack_mtinfo2 and 3), and nothing else.
func matchOf(name string, info []byte) condition {
	const flagsAt, invertedAt, statesAt, end, onlyState = 146, 148, 150, 152, 1
	if name != "conntrack" || len(info) < end {
		return condition{}
	}
	asked, inverted := binary.NativeEndian.Uint16(info[flagsAt:]), binary.NativeEndian.Uint16(info[invertedAt:])
	if asked != onlyState {
		return condition{}
	}
	return condition{what: "state", states: uint32(binary.NativeEndian.Uint16(info[statesAt:])), not: inverted&onlyState != 0}
}
