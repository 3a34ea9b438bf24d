package configs

// choices are the keys whose value is one of a few words.
func choices() map[string][]string {
	return map[string][]string{
		"tls.source":         {"self-signed", "files", "acme"},
		"services[].choose":  {"nearest", "as-asked"},
		"dns.proxy_resolves": {"auto", "always", "never"},
		"relay.mode":         {"bridge", "terminate", "local"},
		"relay.rungs[]":      {"udp", "tcp", "tls", "proxy"},
		"forward.auth":       {"none", "basic"},
		"precall.mode":       {"advisory", "lenient", "strict"},
		"admin.users[].role": {"admin", "helpdesk"},
		"log.level":          {"debug", "info", "warn", "error"},
		"log.format":         {"json", "text"},
	}
}
