package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
)

// records are the types of record that can be asked for.
var records = map[string]uint16{
	"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33,
	"RRSIG": 46, "DNSKEY": 48, "ANY": 255,
}

// rcodes are names of response codes, RFC 1035 section 4.1.1 and RFC 2136.
var rcodes = [...]string{
	"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE",
}

const (
	dnsHeader   = 12
	dnsResponse = 0x80 // of the third byte
	// maxForeign is how many answers to other queries are let pass.
	maxForeign = 100
)

// compileDNS: a query over UDP is answered without an error. That the answer holds a record is not asked for:
// a server that says there is none serves.
func compileDNS(t *Target) (func(context.Context) error, error) {
	question, err := appendQuestion(nil, t.Health.Query, t.Health.Record)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		query := []byte{0, 0, 1 /* recursion desired */, 0, 0, 1 /* question */, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(query, uint16(rand.Uint32()))
		query = append(query, question...)
		foreign := 0
		err := exchange(ctx, t, query, func(got []byte) (bool, error) {
			if answers(got, query) {
				return true, rcode(got)
			}
			foreign++
			return foreign == maxForeign, errors.New("answers to other queries only")
		})
		if _, silent := errors.AsType[silence](err); silent && foreign > 0 {
			return fmt.Errorf("%w, but %d to other queries", err, foreign)
		}
		return err
	}, nil
}

// answers says whether a message is the response to a query. Who refuses may leave out the question.
func answers(got, query []byte) bool {
	if len(got) < dnsHeader || !bytes.Equal(got[:2], query[:2]) || got[2]&dnsResponse == 0 {
		return false
	}
	question := query[dnsHeader:]
	if binary.BigEndian.Uint16(got[4:]) == 0 {
		return got[3]&0xf != 0
	}
	rest := got[dnsHeader:]
	return len(rest) >= len(question) && bytes.EqualFold(rest[:len(question)], question)
}

func rcode(got []byte) error {
	code := int(got[3] & 0xf)
	switch {
	case code == 0:
		return nil
	case code < len(rcodes):
		return fmt.Errorf("rcode %s, want NOERROR", rcodes[code])
	}
	return fmt.Errorf("rcode %d, want NOERROR", code)
}

// appendQuestion appends a question of class IN in wire format, RFC 1035 section 4.1.2. Without a name it is
// the root's, without a type of record SOA.
func appendQuestion(b []byte, name, record string) ([]byte, error) {
	if record == "" {
		record = "SOA"
	}
	kind, ok := records[strings.ToUpper(record)]
	if !ok {
		return nil, fmt.Errorf("unknown type of record %q", record)
	}
	if name = strings.TrimSuffix(name, "."); name != "" {
		for label := range strings.SplitSeq(name, ".") {
			if len(label) == 0 || len(label) > 63 {
				return nil, fmt.Errorf("name %q: labels have 1 to 63 bytes", name)
			}
			b = append(b, byte(len(label)))
			b = append(b, label...)
		}
	}
	b = append(b, 0)
	if len(b) > 255 {
		return nil, fmt.Errorf("name %q: longer than 255 bytes", name)
	}
	b = binary.BigEndian.AppendUint16(b, kind)
	return append(b, 0, 1), nil
}
