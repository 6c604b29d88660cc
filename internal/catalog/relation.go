package catalog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"basin/internal/pgdata"
	"basin/internal/usererr"
)

// Relation is a relation that has files.
type Relation struct {
	OID  uint32
	Name string
	Kind byte // relkind: r, i, S, t or m
	// Path is that of the first file of the main fork. Those of other forks and segments begin with it.
	Path string
}

// String says for people what the relation is.
func (r Relation) String() string {
	kind := map[byte]string{'r': "table", 'i': "index", 'S': "sequence", 't': "TOAST table", 'm': "materialized view"}[r.Kind]
	return kind + " " + r.Name
}

// class is a version of a row of pg_class.
type class struct {
	version     tuple // without data
	oid         uint32
	name        string
	namespace   uint32
	node        uint32 // relfilenode; zero is what the map says
	tablespace  uint32 // zero is that of the database
	toast       uint32 // OID of its TOAST table; zero is none
	persistence byte
	kind        byte
}

// parseClass reads a row of pg_class.
func (c *Catalogs) parseClass(t tuple) (class, error) {
	if len(t.data) < c.layout.toast+8 {
		return class{}, errPage
	}
	k := class{
		oid: uint32At(t.data, 0), name: nameAt(t.data, 4), namespace: uint32At(t.data, 68), node: uint32At(t.data, 88),
		tablespace: uint32At(t.data, 92), toast: uint32At(t.data, c.layout.toast),
		persistence: t.data[c.layout.toast+6], kind: t.data[c.layout.toast+7], version: t,
	}
	k.version.data = nil
	return k, nil
}

// classes returns the versions of rows of pg_class that are wanted.
func (s *search) classes(wanted func(class) bool) (found []class, err error) {
	return found, s.scan(s.dir+"/"+number(s.nodes[classRelation]), func(t tuple) error {
		k, err := s.parseClass(t)
		if err == nil && wanted(k) {
			found = append(found, k)
		}
		return err
	})
}

// search looks for a relation in a database.
type search struct {
	*Catalogs
	database Database
	dir      string // of the database
	nodes    relationMap
	name     string // that is looked for, for messages
}

// Relations returns a relation by its name, and, if it has one, its TOAST table and the index of that. It is an
// error if the relation has no file, and if it cannot be told which file it has.
func (c *Catalogs) Relations(database, schema, name string) ([]Relation, error) {
	d, err := c.Database(database)
	if err != nil {
		return nil, err
	}
	s := &search{Catalogs: c, database: d, name: database + "." + schema + "." + name}
	if s.dir, err = c.dir(d.Tablespace, d.OID); err != nil {
		return nil, err
	}
	if s.nodes, err = c.relationMap(s.dir); err != nil {
		return nil, err
	}
	named, err := s.classes(func(k class) bool { return k.oid == namespaceRelation || k.name == name })
	if err != nil {
		return nil, err
	}
	namespaces, err := s.namespaces(named, schema)
	if err != nil {
		return nil, err
	}
	named = slices.DeleteFunc(named, func(k class) bool { return k.name != name || !slices.Contains(namespaces, k.namespace) })
	if len(named) == 0 {
		return nil, usererr.Hinted("Is the name right? A name with capitals or a dot is in double quotes, as in SQL; without, it is taken in lower case.",
			"there is no relation %s in the backup%s", s.name, c.doubt())
	}
	return s.relations(named)
}

// namespaces returns the schemas of a name.
func (s *search) namespaces(rows []class, schema string) (oids []uint32, err error) {
	var newest *class
	for i := range rows {
		if k := &rows[i]; k.oid == namespaceRelation && (newest == nil || k.version.isNewer(newest.version)) {
			newest = k
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("database %s has no pg_namespace%s", s.database.Name, s.doubt())
	}
	path, err := s.path(*newest)
	if err != nil {
		return nil, err
	}
	var names []string
	err = s.scan(path, func(t tuple) error {
		if len(t.data) < 4+maxName+1 {
			return errPage
		}
		name := nameAt(t.data, 4)
		if !strings.HasPrefix(name, "pg_") {
			names = append(names, name)
		}
		if name == schema {
			oids = append(oids, uint32At(t.data, 0))
		}
		return nil
	})
	if err == nil && len(oids) == 0 {
		slices.Sort(names)
		return nil, usererr.Hinted("There are "+strings.Join(slices.Compact(names), ", ")+".", "there is no schema %s in database %s in the backup%s",
			schema, s.database.Name, s.doubt())
	}
	return oids, err
}

// relations returns what is meant by rows that have its name.
func (s *search) relations(named []class) ([]Relation, error) {
	indexes := make(map[string]bool) // names of the indexes of TOAST tables
	oids := make(map[uint32]bool)
	for _, k := range named {
		oids[k.oid] = true
		if k.toast != 0 {
			oids[k.toast] = true
			indexes["pg_toast_"+number(k.oid)+"_index"] = true
		}
	}
	all, err := s.classes(func(k class) bool {
		return oids[k.oid] || k.namespace == toastNamespace && indexes[k.name]
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b class) int { // the newest of each first
		switch {
		case a.oid != b.oid:
			return cmp.Compare(a.oid, b.oid)
		case a.version.isNewer(b.version):
			return -1
		case b.version.isNewer(a.version):
			return 1
		}
		return 0
	})
	var main []class
	for i, k := range all {
		isNewest := i == 0 || all[i-1].oid != k.oid
		isNamed := slices.ContainsFunc(named, func(n class) bool { return n.oid == k.oid && n.name == k.name && n.namespace == k.namespace })
		if isNewest && isNamed {
			main = append(main, k)
		}
	}
	switch len(main) {
	case 0:
		return nil, fmt.Errorf("relation %s got another name while the backup was made", s.name)
	case 1:
	default:
		return nil, s.ambiguous(main)
	}
	if !strings.ContainsRune("riStm", rune(main[0].kind)) {
		return nil, noFile(s.name, main[0].kind)
	}
	found, err := s.relation(main[0], all)
	if err != nil {
		return nil, err
	}
	relations := []Relation{found}
	for i, k := range all {
		isNewest := i == 0 || all[i-1].oid != k.oid
		isIndex := k.namespace == toastNamespace && k.name == "pg_toast_"+number(main[0].oid)+"_index"
		if !isNewest || main[0].toast == 0 || k.oid != main[0].toast && !isIndex {
			continue
		}
		if found, err = s.relation(k, all); err != nil {
			return nil, err
		}
		relations = append(relations, found)
	}
	return relations, nil
}

// noFile is a relation of a kind that has no files.
func noFile(name string, kind byte) error {
	what, ok := map[byte]string{
		'v': "a view", 'c': "a type", 'f': "a foreign table", 'p': "a partitioned table", 'I': "a partitioned index",
	}[kind]
	if !ok {
		what = fmt.Sprintf("of the kind %q", kind)
	}
	hint := ""
	if kind == 'p' || kind == 'I' {
		hint = "Its partitions have files; name them."
	}
	return usererr.Hinted(hint, "%s is %s, which has no file", name, what)
}

// path returns where the first file of a relation is.
func (s *search) path(k class) (string, error) {
	tablespace := cmp.Or(k.tablespace, s.database.Tablespace)
	dir, err := s.Catalogs.dir(tablespace, s.database.OID)
	if err != nil {
		return "", err
	}
	node := k.node
	if node == 0 {
		nodes := s.nodes
		if tablespace == pgdata.GlobalTablespace {
			if nodes, err = s.relationMap("global"); err != nil {
				return "", err
			}
		}
		if node = nodes[k.oid]; node == 0 {
			return "", fmt.Errorf("relation %s has no file in the map of the database", k.name)
		}
	}
	return dir + "/" + number(node), nil
}

// relation returns where a relation is. Versions of its row that name different files which are there are an error.
func (s *search) relation(newest class, all []class) (Relation, error) {
	var there []class
	var paths []string
	for _, k := range all {
		if k.oid != newest.oid {
			continue
		}
		path, err := s.path(k)
		if err != nil {
			return Relation{}, err
		}
		f, _, err := s.o.Open(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return Relation{}, err
		default:
			if err := f.Close(); err != nil {
				return Relation{}, err
			}
			if !slices.Contains(paths, path) {
				paths, there = append(paths, path), append(there, k)
			}
		}
	}
	switch {
	case len(paths) == 1:
		return Relation{OID: newest.oid, Name: newest.name, Kind: newest.kind, Path: paths[0]}, nil
	case len(paths) > 1:
		return Relation{}, s.ambiguous(there)
	case newest.persistence == 'u':
		return Relation{}, fmt.Errorf("%s is unlogged: its rows are in no backup", newest.name)
	}
	return Relation{}, fmt.Errorf("the file of %s is not in the backup: it was made, or made anew, while the backup was", newest.name)
}

// ambiguous is a relation that several rows are of.
func (s *search) ambiguous(rows []class) error {
	var places []string
	for _, k := range rows {
		path, err := s.path(k)
		if err != nil {
			return err
		}
		places = append(places, fmt.Sprintf("%s (OID %d, by transaction %d)", path, k.oid, k.version.xmin))
	}
	return usererr.Hinted("Choose one by its path. Of a later transaction is what holds.",
		"%s changed while the backup was made, and has several files in it: %s", s.name, strings.Join(places, ", "))
}
