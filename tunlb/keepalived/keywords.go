package keepalived

// arity says of the keywords of virtual servers how many words at least belong to each, so that several
// statements may stand in a line.
var arity = map[string]int{
	"virtual_server": 2, "virtual_server_group": 1, "real_server": 2, "sorry_server": 2,
	"delay_loop": 1, "lb_algo": 1, "lvs_sched": 1, "lb_kind": 1, "lvs_method": 1, "protocol": 1, "persistence_timeout": 0,
	"persistence_granularity": 1, "persistence_engine": 1, "quorum": 1, "hysteresis": 1, "quorum_up": 1, "quorum_down": 1,
	"inhibit_on_failure": 0, "sorry_server_inhibit": 0, "sorry_server_lvs_method": 1, "ha_suspend": 0, "alpha": 0, "no_alpha": 0,
	"omega": 0, "no_omega": 0, "ops": 0, "virtualhost": 1, "retry": 1, "nb_get_retry": 1, "delay_before_retry": 1, "warmup": 1, "connect_timeout": 1,
	"connect_ip": 1, "connect_port": 1, "bindto": 1, "bind_if": 1, "bind_port": 1, "weight": 1, "uthreshold": 1, "lthreshold": 1,
	"notify_up": 1, "notify_down": 1, "smtp_alert": 0,
	"sh-port": 0, "sh-fallback": 0, "mh-port": 0, "mh-fallback": 0, "flag-1": 0, "flag-2": 0, "flag-3": 0,
	"TCP_CHECK": 0, "HTTP_GET": 0, "SSL_GET": 0, "MISC_CHECK": 0, "DNS_CHECK": 0, "UDP_CHECK": 0, "PING_CHECK": 0, "SMTP_CHECK": 0,
	"BFD_CHECK": 0, "FILE_CHECK": 0,
	"url": 0, "path": 1, "digest": 1, "status_code": 1, "regex": 1, "regex_no_match": 1, "enable_sni": 0,
	"misc_path": 1, "misc_timeout": 1, "misc_dynamic": 0, "payload": 1, "require_reply": 0, "type": 1, "name": 1,
}

// quiet are keywords that are left out without a note: they ask for what tunlb does anyway, or for nothing
// that can be seen.
var quiet = map[string]bool{
	"alpha":            true, // servers are down until their first success
	"log_all_failures": true, "enable_sni": true, "http_protocol": true,
}

// reasons are why keywords have no counterpart.
var reasons = map[string]string{
	"no_alpha":           "servers that are checked are down until their first success",
	"omega":              "tunlb leaves servers alone when it ends",
	"hysteresis":         "the sorry server leaves as soon as the quorum is there",
	"quorum_up":          "scripts can follow tunlb events -f",
	"quorum_down":        "scripts can follow tunlb events -f",
	"notify_up":          "scripts can follow tunlb events -f",
	"notify_down":        "scripts can follow tunlb events -f",
	"smtp_alert":         "mail can be sent by what follows tunlb events -f",
	"ha_suspend":         "VIPs are tunlb's own",
	"persistence_engine": "there are no persistence engines yet",
	"connect_ip":         "checks go to the server's own address",
	"bindto":             "checks take the address that the system gives them",
	"bind_if":            "checks take the address that the system gives them",
	"bind_port":          "checks take the address that the system gives them",
	"warmup":             "first checks are spread over the interval",
	"delay_before_retry": "checks are repeated at the interval",
	"misc_dynamic":       "weights follow the configuration and tunlb weight",
	"digest":             "write a body: what it matches is healthy",
	"regex_no_match":     "body says what is healthy",
	"require_reply":      "it is no ASCII text",

	"sorry_server_inhibit":    "the sorry server leaves when others are there",
	"sorry_server_lvs_method": "the sorry server has the service's mode, or one that it is given in the file",
}

// reason is why a keyword has no counterpart, in general terms if there is nothing to be said about it.
func reason(keyword string) string {
	if why, ok := reasons[keyword]; ok {
		return why
	}
	return "tunlb has no such thing"
}
