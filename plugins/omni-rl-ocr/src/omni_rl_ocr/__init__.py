"""OCR rewards: ``ocr`` (PP-OCR, for training) and ``ocr_tesseract`` (an independent recogniser); prompt format."""

from omni_rl_ocr.prompts import read_ocr_text
from omni_rl_ocr.rewards import OCRConfig, OCRReward, TesseractConfig, TesseractReward
from omni_rl_ocr.text import edit_score, target_text

__all__ = ["OCRConfig", "OCRReward", "TesseractConfig", "TesseractReward", "edit_score", "read_ocr_text", "target_text"]
