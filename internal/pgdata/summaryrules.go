package pgdata

// summaryRules are what is known of the WAL summaries of servers, by major. One that is newer than those here is
// taken to have good summaries, and to read them in any order.
var summaryRules = []struct {
	major int
	// whole is the first version, as server_version_num, whose summaries have all changes: before it, bits of
	// visibility maps that were cleared are missing.
	whole int
	// sorted says that the server reads its summaries in the order of the log. Otherwise its incremental
	// backups may lack blocks behind where a relation was cut off.
	sorted bool
}{
	{17, 170012, true},
	{18, 180006, false},
}

// HasWholeSummaries says whether the summaries of a server tell all that has changed. version is as
// server_version_num.
func HasWholeSummaries(version int) bool {
	for _, r := range summaryRules {
		if version/10000 == r.major {
			return version >= r.whole
		}
	}
	return version/10000 > summaryRules[len(summaryRules)-1].major
}

// SortsSummaries says whether a server reads its summaries in the order of the log when it takes an
// incremental backup. version is as server_version_num.
func SortsSummaries(version int) bool {
	for _, r := range summaryRules {
		if version/10000 == r.major {
			return r.sorted
		}
	}
	return false
}
