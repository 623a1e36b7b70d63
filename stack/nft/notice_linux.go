package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/tunlb/tunlb/stack/packet"
	"golang.org/x/sys/unix"
)

// What golang.org/x/sys/unix lacks, from linux/netfilter/nfnetlink_log.h.
const (
	ulogPacket = 0 // NFULNL_MSG_PACKET
	ulogConfig = 1 // NFULNL_MSG_CONFIG

	ulogCommand   = 1 // NFULA_CFG_CMD
	ulogMode      = 2 // NFULA_CFG_MODE
	ulogRoom      = 3 // NFULA_CFG_NLBUFSIZ
	ulogTimeout   = 4 // NFULA_CFG_TIMEOUT, 10 ms each
	ulogThreshold = 5 // NFULA_CFG_QTHRESH

	ulogBind       = 1 // NFULNL_CFG_CMD_BIND
	ulogCopyPacket = 2 // NFULNL_COPY_PACKET
	ulogPayload    = 9 // NFULA_PAYLOAD
)

const (
	// copied is what a notice has of a packet: an IPv6 header and a TCP header without options.
	copied = 60
	// The kernel tells of so many packets at a time, or of those of so many steps of 10 ms.
	noticesTogether, noticesDelay = 64, 1
	// noticeRoom is what those take at most.
	noticeRoom = 16 << 10
	// noticesWaiting is the memory for what has not been read yet: some thousand packets.
	noticesWaiting = 4 << 20
	// firstGroup is the first of the groups that are tried for a free one. People and their programs count from 0.
	firstGroup, groups = 0x7462, 64
)

// notices is a socket that the kernel copies headers of packets to, those of rules that have told with its group. The group
// vanishes with it. One goroutine reads; close may be called by another.
type notices struct {
	file  *os.File
	group uint16
	buf   []byte
}

func openNotices(path string) (*notices, error) {
	s, err := open(path)
	if err != nil {
		return nil, err
	}
	n := &notices{buf: make([]byte, 2*noticeRoom)}
	if err := n.bind(s); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.widen(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, noticesWaiting)
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return nil, errors.Join(err, s.close())
	}
	n.file = os.NewFile(uintptr(s.fd), "nflog")
	return n, nil
}

// bind takes the first group that nobody has, and says how packets are to be told of.
func (n *notices) bind(s *socket) error {
	var err error
	for n.group = firstGroup; n.group < firstGroup+groups; n.group++ {
		err = n.configure(s, func(b *batch) {
			b.attribute(ulogCommand, 1)
			b.buf = append(b.buf, ulogBind)
			b.pad()
		})
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) { // it is EPERM if another socket has it
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%w: nfnetlink_log: group %d: %w", ErrUnavailable, n.group, err)
	}
	err = n.configure(s, func(b *batch) {
		b.attribute(ulogMode, 6)
		b.buf = be.AppendUint32(b.buf, copied)
		b.buf = append(b.buf, ulogCopyPacket, 0)
		b.pad()
		b.u32(ulogRoom, noticeRoom)
		b.u32(ulogTimeout, noticesDelay)
		b.u32(ulogThreshold, noticesTogether)
	})
	if err != nil {
		return fmt.Errorf("%w: nfnetlink_log: configure group %d: %w", ErrUnavailable, n.group, err)
	}
	return nil
}

// configure sends one message about the group, and waits for the answer.
func (n *notices) configure(s *socket, attributes func(*batch)) error {
	var b batch
	b.begin("", s.next)
	b.header(unix.NFNL_SUBSYS_ULOG<<8|ulogConfig, unix.NLM_F_REQUEST|unix.NLM_F_ACK, unix.AF_UNSPEC, n.group)
	attributes(&b)
	b.endMessage()
	s.next++
	if err := s.send(b.buf); err != nil {
		return err
	}
	for {
		size, err := s.receive(unix.MSG_DONTWAIT)
		if err != nil {
			return err
		}
		for m := range messages(s.buf[:size]) {
			if m.typ == unix.NLMSG_ERROR && m.seq == b.first && len(m.body) >= 4 {
				if errno := m.errno(); errno != 0 {
					return errno
				}
				return nil
			}
		}
	}
}

// read waits for packets to be told of. What it returns is the caller's. What the kernel could not tell of is lost.
func (n *notices) read() (ends []End, err error) {
	var headers []byte
	for len(ends) == 0 {
		size, err := n.file.Read(n.buf)
		if errors.Is(err, unix.ENOBUFS) {
			continue // some are lost
		}
		if err != nil {
			return nil, err
		}
		for m := range messages(n.buf[:size]) {
			if m.typ != unix.NFNL_SUBSYS_ULOG<<8|ulogPacket {
				continue
			}
			for typ, value := range m.attributes() {
				if typ != ulogPayload {
					continue
				}
				if end, ok := endOf(value); ok {
					if headers == nil {
						headers, ends = make([]byte, 0, noticesTogether*copied), make([]End, 0, noticesTogether)
					}
					at := len(headers)
					headers = append(headers, value...)
					end.Header = headers[at:len(headers):len(headers)]
					ends = append(ends, end)
				}
			}
		}
	}
	return ends, nil
}

// endOf reads a packet as ordinary and carry let it pass: TCP behind a plain header.
func endOf(ip []byte) (end End, ok bool) {
	var tcp []byte
	t := &end.Tuple
	switch {
	case len(ip) >= 40 && ip[0] == 0x45 && ip[9] == packet.ProtoTCP && binary.BigEndian.Uint16(ip[6:])&0x3fff == 0:
		t.Src, t.Dst = netip.AddrFrom4([4]byte(ip[12:])).As16(), netip.AddrFrom4([4]byte(ip[16:])).As16()
		tcp = ip[20:]
	case len(ip) >= 60 && ip[0]>>4 == 6 && ip[6] == packet.ProtoTCP:
		t.Src, t.Dst = [16]byte(ip[8:]), [16]byte(ip[24:])
		tcp = ip[40:]
	default:
		return end, false
	}
	t.Proto = packet.ProtoTCP
	t.SrcPort, t.DstPort = be.Uint16(tcp), be.Uint16(tcp[2:])
	end.Flags = tcp[13]
	return end, end.Flags&packet.TCPSyn == 0 && end.Flags&(packet.TCPFin|packet.TCPRst) != 0
}

func (n *notices) close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}
