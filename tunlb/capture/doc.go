// Package capture is packets in files: it writes watch.Records as pcapng with a comment on every packet, cuts a
// stream of pcapng into files, and reads pcap and pcapng of any origin.
//
// It owns the formats (draft-ietf-opsawg-pcapng, draft-ietf-opsawg-pcap) and the words of the comments. It does not
// own where records come from (package watch), the way from the daemon to the client (tunlb/control), nor what is
// done with packets that were read (tunlb/replay).
package capture
