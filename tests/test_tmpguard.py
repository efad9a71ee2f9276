import os,pdb,sys,builtins,io,pytest
@pytest.mark.parametrize("w",["cwd","pdb","stdin","input"])
def test_a(w,tmp_path):
    if w=="cwd": os.chdir(tmp_path)
    if w=="pdb": pdb.set_trace=lambda:0
    if w=="stdin": sys.stdin=io.StringIO()
    if w=="input": builtins.input=lambda:0
