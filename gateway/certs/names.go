package certs

import "hafen/configs"

// Names are the names that the certificate of a gateway with this configuration should cover, its own name first.
func Names(cfg *configs.Config) []string { return certificateNames(Options{Config: cfg}) }
